"""The journal of a change of the scripts: its name, and what it means to find one.

`ckmigrate.file_set` writes it; whoever reads the scripts looks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ckmigrate.errors import HistoryError

__all__ = ["JOURNAL", "being_changed"]

JOURNAL: Final = ".ckmigrate-journal"
"""In the folder of the scripts, while several files of the project change together."""


def being_changed(journal: Path) -> HistoryError:
    """CKM338: some of the files may be new and others old."""
    return HistoryError(
        "CKM338",
        "the scripts are being changed, or a run that did so was cut off",
        where=str(journal.parent),
        why=f"the journal {journal.name} lies there: some files may be new and others old",
        fix="Wait for the run; if there is none, any command (such as `ckmigrate history`) takes "
        "its change back first.",
    )
