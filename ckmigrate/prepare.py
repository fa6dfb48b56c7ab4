"""Deciding a migration completely: read, identify, trace, compare, plan. Nothing is written.

What `prepare` returns is what `plan` prints and what `ckmigrate.migrate.carry_out` executes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ckmigrate.compile import State, Trace, TracedScript, start, trace, trace_back
from ckmigrate.errors import CkmigrateError, MigrationError, VerificationError
from ckmigrate.execute.evaluate import chunks, peak_cost
from ckmigrate.execute.source import is_plain
from ckmigrate.expr import sources
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import child
from ckmigrate.identify import Identity, Replay
from ckmigrate.locking import committed_head
from ckmigrate.lower import Copy
from ckmigrate.meta import Unknown
from ckmigrate.opened import Opened, Request, edited, identify_opened, open_weights, replays
from ckmigrate.planning import Entry, Plan, make_plan
from ckmigrate.project import Project
from ckmigrate.remarks import (
    remarks_on,
    remarks_on_conditions,
    remarks_on_losses,
    remarks_on_order,
)
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.targets import resolve
from ckmigrate.snapshot import order_of
from ckmigrate.spec import Schema
from ckmigrate.step import Check
from ckmigrate.strict import compare, compare_ties, describe, describe_notes, describe_ties, notes
from ckmigrate.tagging import Applied, Tag, tag_at
from ckmigrate.target import Target, load_target
from ckmigrate.target_optimizer import Groups, load_groups
from ckmigrate.ties import Ties
from ckmigrate.training.carried import Carried
from ckmigrate.training.carry_state import carry_state
from ckmigrate.training.optimizer_form import counts_parameters
from ckmigrate.uncollected import uncollected

__all__ = ["Direction", "FindTarget", "Prepared", "find_target", "finding_once", "prepare"]

Direction = Literal["up", "down"]
FindTarget = Callable[[Project, Request], Target]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decided migration.

    target    the model that the result was compared with, or None
    notes     remarks that are no obstacles
    tag       what will be written into the result
    compared  what the schema of the result was compared with, in words; None: with nothing
    """

    project: Project
    history: History
    request: Request
    opened: Opened
    identity: Identity
    to_revision: str | None
    direction: Literal["up", "down", "none"]
    plan: Plan
    tag: Tag
    target: Target | None
    notes: tuple[str, ...] = ()
    compared: str | None = None

    @property
    def has_work(self) -> bool:
        """Whether anything but the place of the file would change: a script, a missing tag, or the
        numbers of parameters in an optimizer."""
        changes = bool(self.plan.trace.scripts) or bool(self.plan.carried.nodes)
        return changes or not self.identity.is_tagged


def find_target(project: Project, request: Request) -> Target:
    """The current architecture of the chosen model; imports torch and the project's code."""
    name, factory = project.model(request.model)
    return load_target(factory, name, python_path=project.python_path)


def finding_once() -> FindTarget:
    """`find_target`, but that each model is built once: for many checkpoints."""
    found: dict[str | None, Target] = {}

    def find(project: Project, request: Request) -> Target:
        if request.model not in found:
            found[request.model] = find_target(project, request)
        return found[request.model]

    return find


@uncollected()
def prepare(
    project: Project,
    history: History,
    path: Path,
    request: Request,
    *,
    direction: Direction = "up",
    known: Mapping[str, Replay] | None = None,
    find: FindTarget = find_target,
) -> Prepared:
    """Decide a migration completely. Nothing is written and no tensor byte is read.

    `known` are the replays of the history, shared where several files are migrated; so is `find`,
    which gives the model that was asked for.
    Raises whatever a step raises; MigrationError CKM560 where training state cannot follow,
    VerificationError CKM601 where the result would not fit the target.
    """
    opened = open_weights(path, project, request)
    known = replays(project, history, request.params) if known is None else known
    identity = identify_opened(opened, project, history, request, known=known)
    wanted = resolve(history, request.to, current=identity.revision)
    case = _Case(project, history, request, opened, identity, wanted, known, find)
    with _contradiction_told(case):
        done = _trace_up(case) if direction == "up" else _trace_down(case)
    goal = _goal(case)
    with _contradiction_told(case):
        fit_remarks = _require_fit(case, done, goal)
    remarks = remarks_on(opened.stored, identity, history, known)
    remarks += tuple(remarks_on_conditions(done))
    remarks += tuple(remarks_on_losses(done)) if direction == "down" else ()
    remarks += goal.remarks + fit_remarks
    after = edited(opened, done.end.meta.tree, project, request)
    groups = functools.partial(_groups_of_code, case, goal.target)
    carried = carry_state(
        after,
        done,
        goal.target,
        request,
        groups=groups,
        wrappers=project.wrappers,
        order=_recorded_order(case),
    )
    held = _Held(opened.stored, {**opened.layout.entries, **carried.sources})
    plan = make_plan(
        done,
        is_plain=held.is_plain,
        peak=held.peak,
        extra_checks=_tie_checks(done, goal.target),
        carried=carried,
        order=_order(carried, goal.target),
    )
    _require_memory(plan, request)
    follows = any(node.kind == "optimizer" for node in carried.nodes)
    if goal.target and request.optimizer != "drop" and not request.weights_only and not follows:
        remarks += remarks_on_order(opened.layout, goal.target.schema)
    return Prepared(
        project=project,
        history=history,
        request=request,
        opened=opened,
        identity=identity,
        to_revision=wanted,
        direction=direction if done.scripts else "none",
        plan=plan,
        tag=_tag(case, done, direction),
        target=goal.target,
        notes=remarks,
        compared=goal.text,
    )


def _order(carried: Carried, target: Target | None) -> Iterable[str]:
    """With an optimizer, weights are written in the order of the model, as torch saves them: by
    that order the next migration knows which parameter has which number."""
    counts = any(node.kind == "optimizer" for node in carried.nodes)
    return target.schema if target is not None and counts else ()


def _recorded_order(case: _Case) -> tuple[str, ...] | None:
    """The weights in the order of the model, where the file is at the base and the snapshots that
    it fits know one."""
    if case.identity.revision is not None:
        return None
    orders = (order_of(replay.base, case.opened.schema) for replay in case.known.values())
    found = set(orders) - {None}
    return found.pop() if len(found) == 1 else None


def _groups_of_code(case: _Case, target: Target | None) -> Groups | None:
    """The groups of the optimizers that the project's code makes of the model; None where it is not
    told how, or there is no model."""
    function = case.project.optimizer
    if target is not None and target.groups is not None:
        return target.groups
    if function is None or target is None:
        return None
    python_path = case.project.python_path
    return load_groups(function, target.factory, target.model, python_path=python_path)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is known before a script runs: the question, the file, and where it stands."""

    project: Project
    history: History
    request: Request
    opened: Opened
    identity: Identity
    wanted: str | None
    known: Mapping[str, Replay]
    find: FindTarget

    @property
    def params(self) -> dict[str, object]:
        return {**self.project.params, **self.request.params}

    @property
    def start(self) -> State:
        opened = self.opened
        return start(opened.schema, ties=opened.layout.ties, meta=opened.meta)


@contextmanager
def _contradiction_told(case: _Case) -> Iterator[None]:
    """What fails after `--from` contradicted the tag fails most likely because of that."""
    try:
        yield
    except CkmigrateError as error:
        tag, history = case.identity.tag, case.history
        if tag is not None and case.identity.contradicts_tag:
            written = f"{tag.name} ({tag.revision})" if tag.revision else "base"
            said = history.label(case.identity.revision)
            line = f"--from {said} contradicts the tag of the checkpoint, which says {written}"
            error.details = (line, *error.details)
        raise


def _trace_up(case: _Case) -> Trace:
    scripts = case.history.path_up(case.identity.revision, case.wanted)
    return trace(scripts, case.start, case.params)


def _trace_down(case: _Case) -> Trace:
    scripts = case.history.path_down(case.identity.revision, case.wanted)
    return trace_back(scripts, case.start, case.params, _replay_before(case))


def _replay_before(case: _Case) -> dict[str, TracedScript]:
    """The upgrade that led here, traced again on the schema that it started from.

    That schema is in the tag of a file that ckmigrate upgraded; otherwise the base snapshot serves
    if it leads to exactly this file's schema. {} where neither does.
    """
    tag = case.identity.tag
    recorded = tag.origin_schema() if tag else None
    reached = None
    if tag is not None and recorded is not None:
        reached = _retraced(case, tag.origin_revision, start(recorded))
    if reached is None:
        reached = _retraced_from_snapshot(case)
    old = {item.revision: dict(item.meta) for item in tag.history} if tag else {}
    return {
        traced.script.id: _with_old_values(traced, _old_values(case, traced.script, old))
        for traced in (reached.scripts if reached else ())
    }


def _retraced_from_snapshot(case: _Case) -> Trace | None:
    """The way from the one base snapshot that leads to this file's schema.

    MigrationError CKM551 where several do and what they had on the way differs: equal parts and
    unequal ones can be joined into the same tensor.
    """
    found: dict[str, Trace] = {}
    for name, replay in case.known.items():
        reached = _retraced(case, None, start(replay.base.schema, ties=replay.base.ties))
        if reached is not None and case.request.model in (None, name):
            found[name] = reached
    undone = {script.id for script in case.history.path_down(case.identity.revision, case.wanted)}
    ways = {
        name: [traced.before.schema for traced in way.scripts if traced.script.id in undone]
        for name, way in found.items()
    }
    first = next(iter(found), None)
    if first is None or all(way == ways[first] for way in ways.values()):
        return found[first] if first is not None else None
    raise MigrationError(
        "CKM551",
        "there are several ways back; nothing was changed",
        where=str(case.opened.stored.path),
        details=tuple(f"the snapshot '{name}'" for name in found),
        why="The scripts make this file's names and shapes of each of these, and what they were "
        "made of is not the same. The file itself does not remember.",
        fix="Say which model it is: --model NAME.",
    )


def _old_values(
    case: _Case, script: Script, old: Mapping[str, Mapping[str, str | None]]
) -> dict[str, str | None]:
    """What the tag remembers of a script's metadata: of a squashed one also under its originals, of
    an original that did not run itself under its squash."""
    whole = () if script.id in old else case.history.squashed.values()
    known = [squash.id for squash in whole if script.id in squash.replaces]
    return {
        path: text
        for revision in (*known, *reversed(script.replaces), script.id)
        for path, text in old.get(revision, {}).items()
    }


def _with_old_values(traced: TracedScript, old: Mapping[str, str | None]) -> TracedScript:
    """The records of a replay, with the old metadata that the tag remembers."""
    records = tuple(
        replace(record, edit=record.edit.with_old(old[record.edit.path]))
        if record.edit is not None and record.edit.path in old
        else record
        for record in traced.records
    )
    return replace(traced, records=records)


def _retraced(case: _Case, origin: str | None, state: State) -> Trace | None:
    """The way from an origin to where the file is; None where it does not pass the wanted revision
    or leads to another schema."""
    history, wanted = case.history, case.wanted
    if origin not in {None, wanted, *(history.ancestors(wanted) if wanted else ())}:
        return None
    try:
        # In two parts: a squashed script may stand for neither when the stop lies inside of it.
        way = history.path_up(origin, wanted) + history.path_up(wanted, case.identity.revision)
        reached = trace(way, state, case.params)
    except MigrationError:
        return None
    return reached if reached.end.schema == case.opened.schema else None


@dataclass(frozen=True, slots=True)
class _Goal:
    """What the result must be, in words too, with a remark where nothing can tell; `hint` is a
    further way out where the result is not that."""

    target: Target | None = None
    schema: Schema | None = None
    text: str | None = None
    hint: str = ""
    remarks: tuple[str, ...] = ()


def _goal(case: _Case) -> _Goal:
    """What the result must be.

    At the head that is the model. Without the model it is the committed head snapshot, or else what
    the scripts make of the base snapshot, provided that these are of this file's size: it has the
    schema of that replay at the revision where it is now.
    """
    request, heads = case.request, case.history.heads
    use_model = request.use_model or (request.model_for_order and _is_counted(case))
    if use_model and ((case.wanted,) == heads or not heads):
        target = case.find(case.project, replace(request, model=_model_of(case)))
        return _Goal(target, target.schema, f"model '{target.model}' ({target.factory})")
    for name, replay in case.known.items():
        begin = replay.schema(case.identity.revision)
        if request.model in (None, name) and begin is not None and begin == case.opened.schema:
            return _goal_of_snapshot(case, name, replay)
    return _Goal(remarks=("not compared with a model: no snapshot has this file's shapes",))


def _is_counted(case: _Case) -> bool:
    """Whether an optimizer that follows knows its parameters by numbers."""
    opened, request = case.opened, case.request
    if request.optimizer == "drop" or request.weights_only or not case.project.models:
        return False
    return any(
        counts_parameters(child(opened.stored.state_tree, outside.path))
        for outside in opened.layout.training_state
        if outside.kind == "optimizer" and outside.is_readable
    )


def _goal_of_snapshot(case: _Case, name: str, replay: Replay) -> _Goal:
    """The committed head was compared with the model when it was recorded; a replay tells only what
    the scripts do now."""
    is_head = (case.wanted,) == case.history.heads
    committed = committed_head(case.project, case.history, name) if is_head else None
    if committed is None:
        schema = replay.schema(case.wanted)
        return _Goal(None, schema, f"the snapshot '{name}'" if schema else None)
    hint = " If the scripts are right, record what they do now: ckmigrate lock."
    return _Goal(None, committed.schema, f"the snapshot '{name}'", hint=hint)


def _model_of(case: _Case) -> str | None:
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


def _require_fit(case: _Case, done: Trace, goal: _Goal) -> tuple[str, ...]:
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


def _tie_checks(done: Trace, target: Target | None) -> tuple[Check, ...]:
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


@dataclass(frozen=True, slots=True)
class _Held:
    """The tensors of the file, weights and training state, and how they lie there."""

    stored: Stored
    tensors: Mapping[str, Tensor]

    def is_plain(self, name: str) -> bool:
        tensor = self.tensors[name]
        return tensor.spec.numel == 0 or is_plain(tensor, self.stored.records[tensor.storage.key])

    def peak(self, entry: Entry) -> int:
        """Bytes of memory that making an entry takes."""
        if isinstance(entry.lowered, Copy):
            return 0
        scattered = [name for name in sources(entry.expr) if not self.is_plain(name)]
        # A tensor that is no contiguous part of the file is put in order as a whole.
        whole = sum(self.tensors[name].spec.nbytes for name in scattered)
        return max(map(peak_cost, chunks(entry.expr))) + 3 * whole


def _require_memory(plan: Plan, request: Request) -> None:
    """Refuse a step that cannot fit: past --max-memory, or past what the machine has."""
    limit, whose = request.max_memory, "--max-memory allows"
    if limit is None:
        limit, whose = _physical_memory(), "this machine has"
    if limit is not None and plan.peak_memory > limit:
        raise MigrationError(
            "CKM561",
            f"the largest step needs about {plan.peak_memory} bytes of memory",
            why=f"{whose} {limit}.",
            fix="Allow more, run on a machine that has more, or split the tensor first.",
        )


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _tag(case: _Case, done: Trace, direction: str) -> Tag:
    """The tag of the result: what was applied before and now, and the schema that it began with."""
    history, identity, wanted = case.history, case.identity, case.wanted
    old = identity.tag if identity.tag and identity.tag.revision == identity.revision else None
    applied = list(old.history) if old else []
    if direction == "up":
        applied += [_applied(traced) for traced in done.scripts]
    else:
        undone = {one for t in done.scripts for one in (t.script.id, *t.script.replaces)}
        applied = [item for item in applied if item.revision not in undone]
    tag = replace(tag_at(case.project.name, history, wanted), history=tuple(applied))
    if old and old.origin:
        kept = replace(tag, origin=old.origin, origin_revision=old.origin_revision)
        return kept if direction == "up" or applied else tag
    return tag.with_origin(case.opened.schema, identity.revision) if direction == "up" else tag


def _applied(traced: TracedScript) -> Applied:
    script = traced.script
    edits = [record.edit for record in traced.records if record.edit is not None]
    paths = [edit.path for edit in edits]
    meta = tuple(
        (edit.path, text)
        for edit in edits
        if paths.count(edit.path) == 1 and not isinstance(text := edit.old_text(), Unknown)
    )
    return Applied(script.id, script.slug or script.message, traced.digest, meta)
