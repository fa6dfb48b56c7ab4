"""What was taken back, as a line and as data."""

from __future__ import annotations

from pathlib import Path

from ckmigrate.execute.undo import Undone
from ckmigrate.report.escape import printable

__all__ = ["undone_data", "undone_text"]


def undone_text(path: Path, undone: Undone) -> str:
    """What was taken back."""
    what = "the last change in place" if undone.was_done else "a change in place that was cut off"
    return f"rolled back {printable(path)}: {what}; it is at {printable(undone.revision)} again"


def undone_data(undone: Undone) -> dict[str, object]:
    """The fields of a checkpoint that is the old one again."""
    return {"undone": True, "revision": undone.revision, "was_complete": undone.was_done}
