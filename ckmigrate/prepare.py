"""Deciding a migration completely: read, identify, trace, compare, plan. Nothing is written.

What `prepare` returns is what `plan` prints and what `ckmigrate.migrate.carry_out` executes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckmigrate.case import Case, contradiction_told
from ckmigrate.compile import Trace, TracedScript, trace
from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import chunks, peak_cost
from ckmigrate.execute.source import is_plain
from ckmigrate.expr import sources
from ckmigrate.find_target import FindTarget, find_target
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.goal import Goal, find_goal, require_fit, tie_checks
from ckmigrate.identify import Identity, Replay
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
from ckmigrate.revisions.targets import resolve
from ckmigrate.tagging import Applied, Tag, tag_at
from ckmigrate.training.carried import NOTHING, Carried
from ckmigrate.uncollected import uncollected

if TYPE_CHECKING:
    from ckmigrate.target import Target

__all__ = ["Direction", "Prepared", "prepare"]

Direction = Literal["up", "down"]


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
    case = Case(project, history, request, opened, identity, wanted, known, find)
    with contradiction_told(case):
        done = _trace(case, direction)
    goal = find_goal(case)
    with contradiction_told(case):
        fit_remarks = require_fit(case, done, goal)
    after = edited(opened, done.end.meta.tree, project, request)
    carried = _carried(case, after, done, goal)
    held = _Held(opened.stored, {**opened.layout.entries, **carried.sources})
    plan = make_plan(
        done,
        is_plain=held.is_plain,
        peak=held.peak,
        extra_checks=tie_checks(done, goal.target),
        carried=carried,
        order=_written_order(carried, goal.target),
    )
    _require_memory(plan, request)
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
        notes=(
            *remarks_on(opened.stored, identity, history, known),
            *remarks_on_conditions(done),
            *(remarks_on_losses(done) if direction == "down" else ()),
            *goal.remarks,
            *fit_remarks,
            *_order_remarks(case, plan, goal),
        ),
        compared=goal.text,
    )


def _trace(case: Case, direction: Direction) -> Trace:
    if direction == "down":
        from ckmigrate.trace_down import trace_down

        return trace_down(case)
    scripts = case.history.path_up(case.identity.revision, case.wanted)
    return trace(scripts, case.start, case.params)


def _order_remarks(case: Case, plan: Plan, goal: Goal) -> tuple[str, ...]:
    follows = any(node.kind == "optimizer" for node in plan.carried.nodes)
    is_left = case.request.optimizer == "drop" or case.request.weights_only
    if goal.target is None or is_left or follows:
        return ()
    return remarks_on_order(case.opened.layout, goal.target.schema)


def _carried(case: Case, after: Opened, done: Trace, goal: Goal) -> Carried:
    if not after.layout.training_state:
        return NOTHING
    from ckmigrate.carry import carry

    return carry(case, after, done, goal.target)


def _written_order(carried: Carried, target: Target | None) -> Iterable[str]:
    """With an optimizer, weights are written in the order of the model, as torch saves them: by
    that order the next migration knows which parameter has which number."""
    counts = any(node.kind == "optimizer" for node in carried.nodes)
    return target.schema if target is not None and counts else ()


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


def _tag(case: Case, done: Trace, direction: str) -> Tag:
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
