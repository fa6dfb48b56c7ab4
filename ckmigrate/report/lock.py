"""Changes of history.lock as text."""

from __future__ import annotations

from ckmigrate.errors import HistoryError
from ckmigrate.report.escape import printable
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import UNKNOWN, Lock, LockLine, parse_lock

__all__ = ["lock_changes"]


def lock_changes(history: History, before: str | None, now: Lock) -> list[str]:
    """A line for each revision whose record is new, changed or gone."""
    try:
        old = Lock() if before is None else parse_lock(before, "before")
    except HistoryError:
        old = Lock()
    lines = {line.revision: line for line in old.lines}
    changes = [
        f"{_sign(lines.get(line.revision), line)} {printable(history.label(line.revision))}"
        for line in now.lines
        if lines.get(line.revision) != line
    ]
    kept = set(now.revisions)
    gone = [line for line in old.lines if line.revision not in kept]
    return changes + [f"gone {line.revision} ({printable(line.slug)})" for line in gone]


def _sign(old: LockLine | None, now: LockLine) -> str:
    if now.digest == UNKNOWN:
        return "open"  # a draft, or a script that reads metadata
    if old is None or old.digest == UNKNOWN:
        return "new "
    return "changed" if old.digest != now.digest else "moved"
