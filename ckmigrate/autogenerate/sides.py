"""The two sides of a draft, for every model: the schema at the head, and the model of today."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ckmigrate.autogenerate.settle import Side
from ckmigrate.committed_head import committed_head
from ckmigrate.errors import UsageError
from ckmigrate.identify import Replay
from ckmigrate.names import select
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema
from ckmigrate.target import Target

__all__ = ["head_snapshot", "make_side", "without"]


def head_snapshot(
    project: Project, history: History, known: Mapping[str, Replay], model: str
) -> Snapshot:
    """The schema of a model where the scripts end: replayed, or the committed one.

    The scripts are what upgrades a checkpoint, so they go first; the committed snapshot serves
    where they read metadata. UsageError CKM255 where there is neither.
    """
    head = history.require_single_head()
    _require_finished(history)
    replay = known.get(model)
    if replay is not None and head is None:
        return replay.base
    traced = None if replay is None or head is None else replay.traced(head)
    if traced is not None:
        return Snapshot(traced.after.schema, traced.after.ties, model)
    committed = committed_head(project, history, model)
    if committed is not None:
        return committed
    raise _no_old_side(project, history, replay, model)


def make_side(old: Snapshot, target: Target, exempt: Sequence[str]) -> Side:
    """Both sides of one model, without the entries that no check looks at."""
    new = Snapshot(target.schema, target.ties, target.model)
    free = (_matching(exempt, old), _matching(exempt, new))
    return Side(without(old, free[0]), without(new, free[1]), tuple(exempt))


def without(snapshot: Snapshot, names: Collection[str]) -> Snapshot:
    """The snapshot without some of its entries."""
    if not names:
        return snapshot
    schema = Schema((name, spec) for name, spec in snapshot.schema.items() if name not in names)
    groups = (tuple(name for name in group if name not in names) for group in snapshot.ties)
    ties = tuple(group for group in groups if len(group) > 1)
    return Snapshot(schema, ties, snapshot.model)


def _matching(patterns: Sequence[str], snapshot: Snapshot) -> frozenset[str]:
    return frozenset(m.name for pattern in patterns for m in select(pattern, snapshot.schema))


def _require_finished(history: History) -> None:
    """A draft on top of an unfinished one would explain the same changes again."""
    for script in history.order:
        if script.has_todo:
            lines = ", ".join(map(str, script.todo_lines))
            raise UsageError(
                "CKM255",
                f"{script.path.name} is not finished",
                where=f"{script.path}, line {lines}",
                why="nobody knows where it leads before its todo is replaced",
                fix="Replace the todo by the call that is meant, or delete the script and draft "
                "it anew.",
            )


def _no_old_side(
    project: Project, history: History, replay: Replay | None, model: str
) -> UsageError:
    if replay is None:
        return UsageError(
            "CKM255",
            f"there is no snapshot of model '{model}' to compare it with",
            where=str(project.snapshot_path(model)),
            why="a draft needs to know what checkpoints looked like before",
            fix=f"Add it from a checkpoint that is at the base: ckmigrate init --from-checkpoint "
            f"PATH --model-name {model}",
        )
    reasons = tuple(
        f"{history.label(revision)}: {error.what}" for revision, error in replay.failures.items()
    )
    return UsageError(
        "CKM255",
        f"snapshot '{model}' cannot be led to the head",
        details=reasons[:3],
        fix="`ckmigrate check --no-model` tells more. Correct these scripts first.",
    )
