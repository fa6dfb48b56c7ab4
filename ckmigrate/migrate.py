"""One checkpoint through the whole pipeline: read, identify, trace, compare, plan; then carry out.

`prepare` decides everything and writes nothing; what it returns is what `plan` prints and what
`carry_out` executes. The command line and the Python interface both stand on these two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ckmigrate.compile import State as SymbolicState
from ckmigrate.compile import Trace, TracedScript, start, trace, trace_back
from ckmigrate.errors import IdentifyError, MigrationError, VerificationError
from ckmigrate.execute.commit import Committed, Destination, commit
from ckmigrate.execute.evaluate import chunks, peak_cost
from ckmigrate.execute.fill import Progress, check_claims, fill
from ckmigrate.execute.lock import Lock
from ckmigrate.execute.source import SourceFile, is_plain
from ckmigrate.formats.base import Stored
from ckmigrate.formats.open_checkpoint import open_checkpoint, open_regular
from ckmigrate.identify import Identity, Replay, identify
from ckmigrate.lower import Copy
from ckmigrate.meta import Meta
from ckmigrate.output import Output, format_of, make_output
from ckmigrate.plan import Entry, Plan, make_plan
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.targets import resolve
from ckmigrate.snapshot import read_snapshot
from ckmigrate.spec import Schema
from ckmigrate.step import Check
from ckmigrate.strict import compare, compare_ties, describe, describe_notes, describe_ties, notes
from ckmigrate.tag import Applied, Tag
from ckmigrate.target import Target, load_target
from ckmigrate.training.layouts import Layout, drop_outside, find_weights
from ckmigrate.verify import verify_file

__all__ = [
    "Opened",
    "Outcome",
    "Prepared",
    "Request",
    "carry_out",
    "find_target",
    "identify_opened",
    "open_weights",
    "prepare",
    "replays",
]

Policy = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for.

    to             a revision, as `ckmigrate.revisions.targets.resolve` reads it
    from_revision  overrides identification
    model          name of one of the configured models; None where there is only one
    use_model      compare with the model and load into it (needs torch); otherwise with the
                   snapshot that the scripts make of the base schema
    optimizer, ema what to do with training state that the migration would make stale
    """

    to: str = "head"
    from_revision: str | None = None
    model: str | None = None
    use_model: bool = True
    params: Mapping[str, object] = field(default_factory=dict)
    weights: str | None = None
    carry: tuple[str, ...] = ()
    optimizer: Policy = "refuse"
    ema: Policy = "refuse"
    weights_only: bool = False
    unwrap: bool = False
    max_memory: int | None = None
    full_verify: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that was read but for its tensors, and where its weights sit."""

    stored: Stored
    layout: Layout

    @property
    def schema(self) -> Schema:
        return Schema((name, tensor.spec) for name, tensor in self.layout.entries.items())

    @property
    def meta(self) -> Meta:
        return Meta(
            dict(self.stored.metadata) if self.stored.format == "safetensors" else self.stored.tree
        )

    def is_plain(self, name: str) -> bool:
        tensor = self.layout.entries[name]
        return tensor.spec.numel == 0 or is_plain(tensor, self.stored.records[tensor.storage.key])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decided migration.

    target   the model that the result was compared with, or None
    notes    remarks that are no obstacles
    tag      what will be written into the result
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

    @property
    def has_work(self) -> bool:
        """Whether anything but the place of the file would change: a script, or a missing tag."""
        return bool(self.plan.trace.scripts) or not self.identity.is_tagged


@dataclass(frozen=True, slots=True)
class Outcome:
    """A migration that was carried out."""

    prepared: Prepared
    committed: Committed
    written: int


def open_weights(path: Path, project: Project, request: Request) -> Opened:
    """Read a checkpoint and find its weights."""
    stored = open_checkpoint(path, carry=(*project.carry, *request.carry))
    layout = find_weights(
        stored, weights=request.weights or project.weights, wrappers=project.wrappers
    )
    return Opened(stored, layout)


def replays(project: Project, history: History, params: Mapping[str, object]) -> dict[str, Replay]:
    """A replay of the history for every model that has a committed base snapshot."""
    folder = project.snapshot_path("any").parent
    if not folder.is_dir():
        return {}
    merged = {**project.params, **params}
    return {
        path.stem: Replay(history, read_snapshot(path), merged)
        for path in sorted(folder.glob("*.json"))
    }


def identify_opened(
    opened: Opened, project: Project, history: History, request: Request
) -> Identity:
    """The revision of an opened checkpoint."""
    try:
        return identify(
            history,
            project=project.name,
            tag_text=opened.stored.tag,
            schema=opened.schema,
            meta=opened.meta,
            release_keys=project.release_keys,
            replays=replays(project, history, request.params),
            override=request.from_revision,
        )
    except IdentifyError as error:
        error.where = error.where or str(opened.stored.path)
        raise


def find_target(project: Project, request: Request) -> Target:
    """The current architecture of the chosen model; imports torch and the project's code."""
    name, factory = project.model(request.model)
    return load_target(factory, name, python_path=project.python_path)


def prepare(
    project: Project,
    history: History,
    path: Path,
    request: Request,
    *,
    direction: Literal["up", "down"] = "up",
) -> Prepared:
    """Decide a migration completely. Nothing is written and no tensor byte is read.

    Raises whatever a step raises; MigrationError CKM560 where training state would become stale,
    VerificationError CKM601 where the result would not fit the target.
    """
    opened = open_weights(path, project, request)
    identity = identify_opened(opened, project, history, request)
    wanted = resolve(history, request.to, current=identity.revision)
    params = {**project.params, **request.params}
    found = start(opened.schema, ties=opened.layout.ties, meta=opened.meta)
    scripts_trace = _trace(opened, history, identity, wanted, params, found, project, direction)
    target, wanted_schema = _wanted_schema(project, history, request, wanted)
    remarks = _require_fit(opened, project, scripts_trace, target, wanted_schema)
    plan = make_plan(
        scripts_trace,
        is_plain=opened.is_plain,
        peak=_peak,
        extra_checks=_tie_checks(scripts_trace, target),
    )
    _require_memory(plan, request)
    _require_fresh_state(opened, plan, request)
    return Prepared(
        project,
        history,
        request,
        opened,
        identity,
        wanted,
        ("up" if direction == "up" else "down") if scripts_trace.scripts else "none",
        plan,
        _tag(project, history, opened, identity, wanted, scripts_trace, direction),
        target,
        remarks,
    )


def _trace(
    opened: Opened,
    history: History,
    identity: Identity,
    wanted: str | None,
    params: Mapping[str, object],
    found: SymbolicState,
    project: Project,
    direction: str,
) -> Trace:
    if direction == "up":
        return trace(history.path_up(identity.revision, wanted), found, params)
    scripts = history.path_down(identity.revision, wanted)
    replay = _replay_before(opened, history, identity, wanted, params, project)
    return trace_back(scripts, found, params, replay)


def _replay_before(
    opened: Opened,
    history: History,
    identity: Identity,
    wanted: str | None,
    params: Mapping[str, object],
    project: Project,
) -> dict[str, TracedScript]:
    """The upgrade that led here, traced again on the schema that it started from.

    That schema is in the tag of a file that ckmigrate upgraded; otherwise the base snapshot serves
    if it leads to exactly this file's schema. {} where neither does.
    """
    origins: list[tuple[str | None, Schema, tuple[tuple[str, ...], ...]]] = []
    tag = identity.tag
    recorded = tag.origin_schema() if tag else None
    if tag is not None and recorded is not None:
        origins.append((tag.origin_revision, recorded, ()))
    snapshots = [replay.base for replay in replays(project, history, params).values()]
    origins += [(None, base.schema, base.ties) for base in snapshots]
    for revision, schema, ties in origins:
        reached = _retraced(history, revision, wanted, identity.revision, schema, ties, params)
        if reached is not None and reached.end.schema == opened.schema:
            return {traced.script.id: traced for traced in reached.scripts}
    return {}


def _retraced(
    history: History,
    origin: str | None,
    wanted: str | None,
    current: str | None,
    schema: Schema,
    ties: tuple[tuple[str, ...], ...],
    params: Mapping[str, object],
) -> Trace | None:
    below = {None, *(history.ancestors(wanted) if wanted else ()), wanted}
    if origin not in below:
        return None
    try:
        return trace(history.path_up(origin, current), start(schema, ties=ties), params)
    except MigrationError:
        return None


def _wanted_schema(
    project: Project, history: History, request: Request, wanted: str | None
) -> tuple[Target | None, Schema | None]:
    """What the result must be: the model at the head, else the replayed snapshot, else unknown."""
    at_head = (wanted,) == history.heads or (wanted is None and not history.heads)
    if at_head and request.use_model:
        target = find_target(project, request)
        return target, target.schema
    if not at_head:
        return None, None
    found = replays(project, history, request.params)
    name = request.model or ("default" if "default" in found else next(iter(found), None))
    replay = found.get(name) if name else None
    return None, replay.schema(wanted) if replay else None


def _require_fit(
    opened: Opened,
    project: Project,
    done: Trace,
    target: Target | None,
    wanted: Schema | None,
) -> tuple[str, ...]:
    """Refuse a result that does not fit, with every difference at once; remarks otherwise."""
    if wanted is None:
        return ()
    schema = done.end.schema
    ties = target.ties if target else ()
    lines = describe(compare(schema, wanted, exempt=project.exempt, ties=()))
    if lines:
        what = f"model '{target.model}' ({target.factory})" if target else "the snapshot"
        raise VerificationError(
            "CKM601",
            f"the result would not fit {what}: {len(lines)} differences",
            where=str(opened.stored.path),
            details=lines[:40] + ((f"… {len(lines) - 40} more",) if len(lines) > 40 else ()),
            why="Every name, shape and kind of number must be the one that the target has.",
            fix="Write the migration that is missing (ckmigrate revision -m …), or correct the "
            "newest one; nothing was written.",
        )
    remarks = describe_notes(notes(schema, wanted, exempt=project.exempt))
    if ties:
        remarks += describe_ties(compare_ties(done.end.ties, ties, schema))
    return remarks


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


def _peak(entry: Entry) -> int:
    if isinstance(entry.lowered, Copy):
        return 0
    return max(map(peak_cost, chunks(entry.expr)))


def _require_memory(plan: Plan, request: Request) -> None:
    if request.max_memory is not None and plan.peak_memory > request.max_memory:
        raise MigrationError(
            "CKM561",
            f"the largest step needs about {plan.peak_memory} bytes of memory",
            why=f"--max-memory allows {request.max_memory}.",
            fix="Allow more, or run on a machine that has more.",
        )


def _require_fresh_state(opened: Opened, plan: Plan, request: Request) -> None:
    """Never write a resumable checkpoint whose optimizer or EMA state is of the old model."""
    if plan.is_identity or request.weights_only:
        return
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    stale = [o for o in opened.layout.training_state if policy.get(o.kind) == "refuse"]
    if stale:
        flags = {"optimizer": "--optimizer drop", "copy": "--ema drop"}
        needed = " ".join(dict.fromkeys(flags[item.kind] for item in stale))
        raise MigrationError(
            "CKM560",
            "the checkpoint holds training state that belongs to the old architecture",
            where=str(opened.stored.path),
            details=tuple(f"{'.'.join(map(str, o.path))}: {o.description}" for o in stale),
            why="The migration changes the weights but cannot carry this state along; training "
            "would resume from wrong values without a word.",
            fix=f"Leave it out by saying so: {needed}; or write the weights alone: --weights-only.",
        )


def _tag(
    project: Project,
    history: History,
    opened: Opened,
    identity: Identity,
    wanted: str | None,
    done: Trace,
    direction: str,
) -> Tag:
    from ckmigrate import __version__

    old = identity.tag if identity.tag and identity.tag.revision == identity.revision else None
    applied = list(old.history) if old else []
    if direction == "up":
        applied += [_applied(traced) for traced in done.scripts]
    else:
        undone = {traced.script.id for traced in done.scripts}
        applied = [item for item in applied if item.revision not in undone]
    script = history.script(wanted) if wanted else None
    tag = Tag(
        project=project.name,
        revision=wanted,
        name=(script.slug or script.message) if script else "base",
        release=_release(history, wanted),
        writer=f"ckmigrate {__version__}",
        history=tuple(applied),
    )
    if old and old.origin:
        kept = replace(tag, origin=old.origin, origin_revision=old.origin_revision)
        return kept if direction == "up" or applied else tag
    return tag.with_origin(opened.schema, identity.revision) if direction == "up" else tag


def _applied(traced: TracedScript) -> Applied:
    script = traced.script
    return Applied(script.id, script.slug or script.message, traced.digest)


def _release(history: History, revision: str | None) -> str | None:
    """The release that a revision belongs to: its own, or the nearest before it on the way."""
    for script in reversed(history.path_up(None, revision)):
        if script.release:
            return script.release
    return None


def carry_out(
    prepared: Prepared,
    destination: Destination,
    *,
    progress: Progress = lambda done: None,
    phase: Callable[[str, int], None] = lambda name, total: None,
    lock: Lock | None = None,
) -> Outcome:
    """Write the result: check the claims, fill a temporary file, verify it, give it its name.

    progress gets the bytes of each write; phase gets the name and size of each stage.
    """
    output = build_output(prepared, destination.path)
    stored = prepared.opened.stored
    fd = open_regular(stored.path)
    try:
        source = SourceFile(fd, stored, output.tensors)
        phase("check", 0)
        check_claims(prepared.plan.checks, source)

        def fill_slots(target: int) -> Mapping[str, int]:
            phase("write", output.image.size)
            return fill(target, output.image, output.work, source, progress)

        def verify(path: Path, target: int) -> None:
            phase("verify", 0)
            verify_file(path, prepared, output)

        committed = commit(
            destination,
            output.image,
            fill_slots,
            source=stored.path,
            source_identity=stored.identity,
            verify=verify,
            lock=lock,
        )
    finally:
        os.close(fd)
    return Outcome(prepared, committed, output.image.size)


def build_output(prepared: Prepared, path: Path) -> Output:
    """The file that the plan becomes under a name: its suffix chooses the format."""
    opened, request = prepared.opened, prepared.request
    tree = prepared.plan.trace.end.meta.tree
    if opened.stored.format == "torch":
        gone = _dropped_state(opened, request)
        tree = drop_outside(tree, gone) if gone else tree
    return make_output(
        prepared.plan,
        opened.stored,
        opened.layout,
        tree,
        format=format_of(path, opened.stored.format),
        tag=prepared.tag.to_json(),
        unwrap=request.unwrap,
        weights_only=request.weights_only,
    )


def _dropped_state(opened: Opened, request: Request) -> Sequence[tuple[object, ...]]:
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    return [o.path for o in opened.layout.training_state if policy.get(o.kind) == "drop"]
