"""Names of a proposal as text."""

from __future__ import annotations

from collections.abc import Sequence

from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.fold import fold_names
from ckmigrate.report.escape import printable

__all__ = ["moved_text", "names_text", "one_line", "spelled"]


def names_text(names: Sequence[str], most: int) -> str:
    """Folded names, the first `most` lines of them: "a.{0…3}.weight, a.bias, … 2 more"."""
    lines = [printable(line) for line in fold_names(names)]
    more = len(lines) - most
    return ", ".join([*lines[:most], *([f"… {more} more"] if more > 0 else [])])


def moved_text(sources: Sequence[str], targets: Sequence[str], most: int) -> str:
    """What becomes what: "a, b → c"; one side where there is no other, or where both are equal."""
    one, other = names_text(sources, most), names_text(targets, most)
    return f"{one} → {other}" if one and other and one != other else one or other


def spelled(proposal: Proposal) -> bool:
    """Whether the call itself says every name, so that nobody needs a list of them."""
    return all(f'"{name}"' in proposal.call for name in (*proposal.sources, *proposal.targets))


def one_line(call: str, *, leave_out: str = "") -> str:
    """The statements of a call in one line: "for i in range(2): ck.init(…); ck.drop(…)".

    leave_out  a prefix of statements that the reader can do without
    """
    lines = [line.strip().removeprefix(leave_out) for line in call.strip().splitlines()]
    return "; ".join(lines).replace(":; ", ": ")
