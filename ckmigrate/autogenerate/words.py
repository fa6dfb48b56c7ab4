"""Names of a proposal as text."""

from __future__ import annotations

from collections.abc import Sequence

from ckmigrate.fold import fold_names
from ckmigrate.report.escape import printable

__all__ = ["names_text"]


def names_text(names: Sequence[str], most: int) -> str:
    """Folded names, the first `most` lines of them: "a.{0…3}.weight, a.bias, … 2 more"."""
    lines = [printable(line) for line in fold_names(names)]
    more = len(lines) - most
    return ", ".join([*lines[:most], *([f"… {more} more"] if more > 0 else [])])
