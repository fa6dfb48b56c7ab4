"""The committed head snapshot of a model, read by commands that record nothing."""

from __future__ import annotations

from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import read_lock
from ckmigrate.signature import signature_text
from ckmigrate.snapshot import Snapshot, read_snapshot

__all__ = ["committed_head"]


def committed_head(project: Project, history: History, name: str) -> Snapshot | None:
    """The committed head snapshot of a model, where the lock tells that it is of this history's
    head; None where there is none or it was not brought up to date yet."""
    path, heads = project.head_snapshot_path(name), history.heads
    lock = read_lock(project.lock_path) if len(heads) == 1 and path.exists() else None
    line = None if lock is None else lock.line(heads[0])
    if line is None:
        return None
    snapshot = read_snapshot(path)
    return snapshot if signature_text(snapshot.schema) in line.signatures else None
