"""A chain of scripts, traced on the symbolic checkpoint into one expression per entry.

    start ── script ── script ── … ──▶ Trace

Going back uses the records of a replay: every recorded step knows its inverse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ckmigrate.checkpoint import Checkpoint
from ckmigrate.errors import CkmigrateError, MigrationError
from ckmigrate.expr import Expr, Source
from ckmigrate.meta import Meta
from ckmigrate.operations.rename import Renames
from ckmigrate.recorder import Record
from ckmigrate.revisions.script import LoadedScript, Script
from ckmigrate.spec import Schema
from ckmigrate.step import Check, Irreversible, Step
from ckmigrate.ties import Ties

__all__ = ["State", "Trace", "TracedScript", "obstacles", "start", "trace", "trace_back"]

_MOST_REASONS = 8
"""Of one call: a dropped pattern may match hundreds of entries."""


@dataclass(frozen=True, slots=True)
class State:
    """A symbolic checkpoint between two scripts."""

    entries: Mapping[str, Expr]
    ties: Ties = ()
    meta: Meta = field(default_factory=Meta.unknown)

    @property
    def schema(self) -> Schema:
        return Schema((name, expr.spec) for name, expr in self.entries.items())


@dataclass(frozen=True, slots=True)
class TracedScript:
    """What one script did. `direction` is "up" or "down".

    absent  names that the script asked for, `if name in ck`, and that were not there, by line
    """

    script: Script
    records: tuple[Record, ...]
    checks: tuple[Check, ...]
    before: State
    after: State
    direction: str = "up"
    absent: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the recorded operations: comments, formatting and Python's version do not matter."""
        text = "\n".join(f"{record.operation}({record.arguments})" for record in self.records)
        return "1:" + hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole chain: where it began, what each script did, and where it ended."""

    start: State
    scripts: tuple[TracedScript, ...]

    @property
    def end(self) -> State:
        return self.scripts[-1].after if self.scripts else self.start

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for script in self.scripts for check in script.checks)

    @property
    def is_identity(self) -> bool:
        """Whether every entry keeps its name and bytes."""
        before, after = self.start.entries, self.end.entries
        same = all(isinstance(e, Source) and e == before.get(n) for n, e in after.items())
        return same and len(before) == len(after)


def start(schema: Schema, *, ties: Ties = (), meta: Meta | None = None) -> State:
    """Every entry as a source; the names of a tied group are one source."""
    first = {name: group[0] for group in ties for name in group}
    entries: dict[str, Expr] = {
        name: Source(first.get(name, name), spec) for name, spec in schema.items()
    }
    return State(entries, ties, meta or Meta.unknown())


def trace(scripts: Sequence[Script], state: State, params: Mapping[str, object]) -> Trace:
    """Run `upgrade` of each script on symbols; MigrationError with the script and line."""
    done = []
    for script in scripts:
        loaded = script.load()
        traced = _run(script, loaded.upgrade, state, params, "up")
        done.append(traced)
        state = traced.after
    return Trace(done[0].before if done else state, tuple(done))


def _run(
    script: Script,
    function: object,
    state: State,
    params: Mapping[str, object],
    direction: str,
) -> TracedScript:
    ck = _checkpoint(script, state, params)
    try:
        function(ck)  # type: ignore[operator]
        ck.recorder.finish()
    except CkmigrateError as error:
        error.where = error.where or _place(script, error)
        raise
    except (Exception, SystemExit) as error:
        raise _script_failure(script, error, direction) from error
    return _traced(script, ck, state, direction)


def _checkpoint(script: Script, state: State, params: Mapping[str, object]) -> Checkpoint:
    return Checkpoint(
        state.entries,
        ties=state.ties,
        meta=state.meta,
        params=params,
        revision=script.id,
        script=script.path.name,
        path=str(script.path),
    )


def _traced(script: Script, ck: Checkpoint, before: State, direction: str) -> TracedScript:
    done = ck.recorder
    after = State(done.entries, done.ties, done.meta)
    return TracedScript(
        script,
        tuple(done.records),
        tuple(done.checks),
        before,
        after,
        direction,
        dict(done.absent),
    )


def _script_failure(script: Script, error: BaseException, direction: str) -> MigrationError:
    name = "upgrade" if direction == "up" else "downgrade"
    return MigrationError(
        "CKM512",
        f"{name}() raised {type(error).__name__}: {error}",
        where=_place(script, error),
        details=_meant(error),
        why="The script failed while it was planned; no tensor was read and nothing was written.",
        fix="Correct the script; run with --debug for the whole traceback.",
    )


def _meant(error: BaseException) -> tuple[str, ...]:
    """What is called like the attribute that an object of ours does not have."""
    if not isinstance(error, AttributeError) or not isinstance(error.name, str):
        return ()
    kind = getattr(error.obj, "__name__", None) or type(error.obj).__module__
    if kind.partition(".")[0] != "ckmigrate":
        return ()
    known = [name for name in dir(error.obj) if not name.startswith("_")]
    from difflib import get_close_matches

    near = get_close_matches(error.name, known, 3)
    return (f"did you mean: {', '.join(near)}?",) if near else ()


def _place(script: Script, error: BaseException) -> str:
    """The last line of the script that the error passed."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(script.path)]
    return f"{script.path.name}, line {lines[-1]}" if lines else script.path.name


def trace_back(
    scripts: Sequence[Script],
    state: State,
    params: Mapping[str, object],
    replay: Mapping[str, TracedScript],
) -> Trace:
    """Go back through the scripts, newest first, by `downgrade` or the derived inverse.

    The whole chain is checked before anything else: MigrationError CKM550 lists every script that
    cannot be undone, and why.
    """
    loaded = {script.id: script.load() for script in scripts}
    problems = [
        f"{script.path.name}: {reason}"
        for script in scripts
        for reason in obstacles(script, loaded[script.id], replay)
    ]
    if problems:
        raise MigrationError(
            "CKM550",
            "there is no way back; nothing was changed",
            details=tuple(dict.fromkeys(problems)),
            why="A migration can be undone only where no information was lost.",
            fix="Keep the old checkpoint, or write downgrade(ck) in these scripts.",
        )
    done = []
    for script in scripts:
        written = loaded[script.id].downgrade
        if written is not None:
            traced = _run(script, written, state, params, "down")
        else:
            traced = _undo(script, replay[script.id], state, params)
        done.append(traced)
        state = traced.after
    return Trace(done[0].before if done else state, tuple(done))


_NO_REPLAY: Final = (
    "its operations cannot be replayed on the schema that it started from; those of a script that "
    "reads ck.meta never can (to edit only: ck.meta.rename(…, optional=True))"
)


def obstacles(
    script: Script, loaded: LoadedScript, replay: Mapping[str, TracedScript]
) -> list[str]:
    """Why a script cannot be undone, line by line; `replay` holds what it did, by revision."""
    if loaded.downgrade is not None:
        return []
    if script.irreversible is not None:
        return [f"declared irreversible: {script.irreversible}"]
    if script.has_todo:
        line = script.todo_lines[0]
        return [f"line {line}: it is not finished; replace its todo by the operation that is meant"]
    traced = replay.get(script.id)
    if traced is None:
        return [_NO_REPLAY]
    found = []
    for record in traced.records:
        place = f"line {record.line}, " if record.line else ""
        reasons = _irreversible(record)
        found += [f"{place}{record.operation}: {reason}" for reason in reasons[:_MOST_REASONS]]
        if len(reasons) > _MOST_REASONS:
            found.append(f"{place}{record.operation}: … {len(reasons) - _MOST_REASONS} more")
    return found


def _irreversible(record: Record) -> list[str]:
    """Why a record cannot be undone: a reason for each of its steps that loses something."""
    try:
        inverse_steps(record)
        return []
    except Irreversible:
        pass
    reasons = []
    for parts in [replace(record, steps=(step,), edit=None) for step in record.steps] or [record]:
        try:
            inverse_steps(parts)
        except Irreversible as reason:
            reasons.append(str(reason))
    return reasons


def inverse_steps(record: Record) -> Sequence[Step]:
    """The steps that undo a record; raises Irreversible."""
    if record.edit is not None:
        record.edit.inverse()
    if isinstance(record.steps, Renames):
        return record.steps.inverse()
    return tuple(
        step.inverse(tuple(record.before[name] for name in step.sources))
        for step in reversed(record.steps)
    )


def _undo(
    script: Script, traced: TracedScript, state: State, params: Mapping[str, object]
) -> TracedScript:
    ck = _checkpoint(script, state, params)
    for record in reversed(traced.records):
        try:
            ck.recorder.undo(record, inverse_steps(record))
        except CkmigrateError as error:
            error.where = error.where or f"{script.path.name}, line {record.line}: undo"
            raise
    return _traced(script, ck, state, "down")
