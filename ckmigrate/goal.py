"""What the result of a migration must be: the model, or what committed snapshots say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckmigrate.case import Case
from ckmigrate.compile import Trace
from ckmigrate.errors import VerificationError
from ckmigrate.formats.tree_paths import child
from ckmigrate.identify import Replay
from ckmigrate.spec import Schema
from ckmigrate.step import Check
from ckmigrate.strict import compare, compare_ties, describe, describe_notes, describe_ties, notes
from ckmigrate.ties import Ties

if TYPE_CHECKING:
    from ckmigrate.target import Target

__all__ = ["Goal", "find_goal", "require_fit", "tie_checks"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What the result must be, in words too, with a remark where nothing can tell; `hint` is a
    further way out where the result is not that."""

    target: Target | None = None
    schema: Schema | None = None
    text: str | None = None
    hint: str = ""
    remarks: tuple[str, ...] = ()


def find_goal(case: Case) -> Goal:
    """What the result must be.

    At the head that is the model. Without the model it is the committed head snapshot, or else what
    the scripts make of the base snapshot, provided that these are of this file's size: it has the
    schema of that replay at the revision where it is now.
    """
    request, heads = case.request, case.history.heads
    use_model = request.use_model or (request.model_for_order and _is_counted(case))
    if use_model and ((case.wanted,) == heads or not heads):
        target = case.find(case.project, replace(request, model=_model_of(case)))
        return Goal(target, target.schema, f"model '{target.model}' ({target.factory})")
    for name, replay in case.known.items():
        begin = replay.schema(case.identity.revision)
        if request.model in (None, name) and begin is not None and begin == case.opened.schema:
            return _goal_of_snapshot(case, name, replay)
    return Goal(remarks=("not compared with a model: no snapshot has this file's shapes",))


def _is_counted(case: Case) -> bool:
    """Whether an optimizer that follows knows its parameters by numbers."""
    opened, request = case.opened, case.request
    is_left = request.optimizer == "drop" or request.weights_only
    if is_left or not case.project.models or not opened.layout.training_state:
        return False
    from ckmigrate.training.optimizer_form import counts_parameters

    return any(
        counts_parameters(child(opened.stored.state_tree, outside.path))
        for outside in opened.layout.training_state
        if outside.kind == "optimizer" and outside.is_readable
    )


def _goal_of_snapshot(case: Case, name: str, replay: Replay) -> Goal:
    """The committed head was compared with the model when it was recorded; a replay tells only what
    the scripts do now."""
    is_head = (case.wanted,) == case.history.heads
    from ckmigrate.committed_head import committed_head

    committed = committed_head(case.project, case.history, name) if is_head else None
    if committed is None:
        schema = replay.schema(case.wanted)
        return Goal(None, schema, f"the snapshot '{name}'" if schema else None)
    hint = " If the scripts are right, record what they do now: ckmigrate lock."
    return Goal(None, committed.schema, f"the snapshot '{name}'", hint=hint)


def _model_of(case: Case) -> str | None:
    """The model that was chosen; else, of several, the one whose snapshot is of the file's size."""
    if case.request.model is not None or len(case.project.models) < 2:
        return case.request.model
    fitting = [
        name
        for name, replay in case.known.items()
        if name in case.project.models
        and replay.schema(case.identity.revision) == case.opened.schema
    ]
    return fitting[0] if len(fitting) == 1 else None


def require_fit(case: Case, done: Trace, goal: Goal) -> tuple[str, ...]:
    """Refuse a result that does not fit, with every difference at once; remarks otherwise."""
    target, wanted = goal.target, goal.schema
    if wanted is None:
        return ()
    schema, exempt = done.end.schema, case.project.exempt
    ties = target.ties if target else ()
    # Loaders of folders tie again what was saved once; a strict load of one file does not.
    kept_once = ties if case.opened.stored.format == "sharded" else ()
    lines = describe(compare(schema, wanted, exempt=exempt, ties=kept_once))
    if lines:
        raise VerificationError(
            "CKM601",
            f"the result would not fit {goal.text}: {len(lines)} differences",
            where=str(case.opened.stored.path),
            details=lines[:40] + ((f"… {len(lines) - 40} more",) if len(lines) > 40 else ()),
            why="Every name, shape and kind of number must be the one that the target has.",
            fix="Draft the migration that is missing (ckmigrate revision --autogenerate -m …), or "
            "correct the newest one; nothing was written." + goal.hint + _tie_hint(schema, ties),
        )
    remarks = describe_notes(notes(schema, wanted, exempt=exempt))
    if ties:
        remarks += describe_ties(compare_ties(done.end.ties, ties, schema))
    return remarks


def _tie_hint(schema: Schema, ties: Ties) -> str:
    """How a script adds the names of tied entries that the file keeps only once."""
    calls = [
        f'ck.tie("{present[0]}", "{name}")'
        for group in ties
        if (present := [name for name in group if name in schema])
        for name in group
        if name not in schema
    ]
    return f" The model ties names that the result lacks: {', '.join(calls[:4])}." if calls else ""


def tie_checks(done: Trace, target: Target | None) -> tuple[Check, ...]:
    """Entries that are one parameter in the model must hold equal values."""
    entries = done.end.entries
    checks = []
    for group in target.ties if target else ():
        present = [name for name in group if name in entries]
        checks += [
            Check(entries[present[0]], entries[name], f"'{name}' is tied to '{present[0]}'")
            for name in present[1:]
        ]
    return tuple(checks)
