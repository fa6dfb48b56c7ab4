"""What a checkpoint went through that carries the id which a script had before a rebase.

A rebased script keeps, beside each former id, what it revised under it: the graph as it was can be
walked again, through former ids of other scripts too.
"""

from __future__ import annotations

from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Revises, Script

__all__ = ["differing", "fork_of_former"]


def differing(
    history: History, old: str, now: Script
) -> tuple[tuple[Script, ...], tuple[Script, ...]]:
    """The scripts that come up to `now` and did not run on a checkpoint tagged `old`, and those
    that ran on it and do not come before it now."""
    went = _went_through(history, old)
    before = history.ancestors(now.id) | {now.id}
    lacks = tuple(script for script in history.order if script.id in before - went)
    return lacks, tuple(script for script in history.order if script.id in went - before)


def fork_of_former(history: History, old: str) -> str | None:
    """The newest revision on the way to `old` that is still what it was; None is the base."""
    waiting = [old]
    while waiting:
        revision = waiting.pop(0)
        if revision in history:
            return revision
        waiting += _parents(_former(history, revision))
    return None


def _went_through(history: History, old: str) -> frozenset[str]:
    """Under the ids of today."""
    found: set[str] = set()
    seen, waiting = {old}, [old]
    while waiting:
        revision = waiting.pop()
        if revision in history:
            found |= {revision, *history.ancestors(revision)}
            continue
        script = history.rebased(revision)
        found |= {script.id} if script else set()
        before = [parent for parent in _parents(_former(history, revision)) if parent not in seen]
        seen.update(before)
        waiting += before
    return frozenset(found)


def _former(history: History, revision: str) -> Revises:
    script = history.rebased(revision)
    return None if script is None else dict(script.formerly)[revision]


def _parents(revises: Revises) -> tuple[str, ...]:
    if revises is None:
        return ()
    return (revises,) if isinstance(revises, str) else revises
