"""The history of a project, tried out on synthetic checkpoints: one model at a time.

Each trial returns when all is well, raises a CkmigrateError that tells what is not, and raises
`unittest.SkipTest`, which pytest understands too, with the reason where there is nothing to test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import SkipTest

from ckmigrate.compile import Trace, start, trace
from ckmigrate.errors import CkmigrateError, MigrationError, VerificationError
from ckmigrate.execute.commit import Destination
from ckmigrate.expr import is_structural
from ckmigrate.identify import Replay
from ckmigrate.meta import is_unknown_metadata
from ckmigrate.migrate import Request, carry_out, prepare, replays
from ckmigrate.names import select
from ckmigrate.project import Project, find_project
from ckmigrate.provenance import unsaid
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.snapshot import read_snapshot
from ckmigrate.spec import Schema
from ckmigrate.strict import (
    compare,
    compare_ties,
    describe,
    describe_notes,
    describe_ties,
    notes,
)
from ckmigrate.synthetic import Values, synthetic_values
from ckmigrate.synthetic_state import placeholders, schema_of, synthetic_state, unwritten
from ckmigrate.target import load_target, strict_load

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_BYTES",
    "Subject",
    "differences",
    "head_of",
    "subject",
    "try_chain",
    "try_model",
]

MAX_BYTES = 256 << 20
"""Of a synthetic checkpoint. A trial holds a few times as much in memory, and as much on disk."""

_MOST_LINES = 40
_META_ERRORS = ("CKM571", "CKM572", "CKM574", "CKM575", "CKM576")


@dataclass(frozen=True)
class Subject:
    """What is tried out: a project with its history."""

    project: Project
    history: History

    @cached_property
    def replays(self) -> dict[str, Replay]:
        return replays(self.project, self.history, {})

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that are configured or have a base snapshot."""
        return tuple(dict.fromkeys((*self.project.models, *self.replays)))

    def replay(self, model: str) -> Replay:
        """The replay on a model's base snapshot; SkipTest without one, if others have theirs."""
        if model in self.replays:
            return self.replays[model]
        path = self.project.snapshot_path(model)
        if self.replays:
            raise SkipTest(f"model '{model}' has no base snapshot ({path})")
        raise VerificationError(
            "CKM637",
            f"model '{model}' has no base snapshot, so its migrations cannot be tried",
            where=str(path),
            why="It says which tensors a checkpoint had before the first migration.",
            fix="Create it from such a checkpoint: ckmigrate init --from-checkpoint PATH.",
        )


def subject(project: Project | Path | None = None) -> Subject:
    """A project, that of a folder, or that of the working directory, with its history."""
    found = project if isinstance(project, Project) else find_project(project or Path.cwd())
    return Subject(found, read_history(found.migrations))


def head_of(tried: Subject) -> str:
    """The one head; HistoryError CKM316 where there are several, SkipTest where there is none."""
    head = tried.history.require_single_head()
    if head is None:
        raise SkipTest(
            f"there are no migrations in {tried.history.folder} yet; `ckmigrate revision -m …` "
            "writes the first"
        )
    return head


def try_chain(
    tried: Subject, model: str, *, max_bytes: int = MAX_BYTES, accept: Sequence[str] = ()
) -> None:
    """Upgrade a synthetic file from the base to the head, and look where every value went.

    accept  revisions, as ids or their beginnings, that may lose or repeat values in expressions of
            their own; so may those that declare `irreversible`

    MigrationError of the script that fails; VerificationError: CKM630 the result has not the
    tensors of the committed head snapshot, CKM631 lost values, CKM632 repeated values, CKM633 the
    file does not hold what the plan says.
    """
    done = _traced(tried, model, head_of(tried))
    _require_head_snapshot(tried, model, done)
    _require_size(max(done.start.schema.nbytes, done.end.schema.nbytes), max_bytes)
    base = tried.replay(model).base
    values = synthetic_values(base.schema, ties=base.ties, checks=done.checks)
    _require_said(done, values, accept)
    if values.unmet:
        raise SkipTest(f"no synthetic values meet the claim: {values.unmet[0]}")
    with tempfile.TemporaryDirectory(prefix="ckmigrate-") as folder:
        written = _upgraded(tried, model, done, values, Path(folder))
        _require_values(done, values, written, model)


def try_model(tried: Subject, model: str) -> None:
    """Compare the model with what the migrations make of its base snapshot, and load it strictly.

    VerificationError CKM634 with every difference, CKM611 and CKM612 of the strict load; UsageError
    CKM21x where the model cannot be built.
    """
    head = tried.history.require_single_head()
    if model not in tried.project.models:
        raise SkipTest(f"no model '{model}' is configured in {tried.project.config_path.name}")
    replay = tried.replay(model)
    state = _traced(tried, model, head).end
    factory, paths = tried.project.models[model], tried.project.python_path
    target = load_target(factory, model, python_path=paths)
    exempt = tried.project.exempt
    lines = describe(compare(state.schema, target.schema, exempt=exempt), found="head")
    lines += describe_ties(compare_ties(state.ties, target.ties, state.schema))
    if lines:
        raise VerificationError(
            "CKM634",
            f"the migrations do not lead to model '{model}' ({factory})",
            details=_shortened(lines),
            why=f"The base snapshot, led to {replay.history.label(head)}, is not what it has.",
            fix='Write the migration that is missing: ckmigrate revision -m "what changed".',
        )
    free = {match.name for pattern in exempt for match in select(pattern, tuple(target.schema))}
    wanted = {name: spec for name, spec in state.schema.items() if name not in free}
    strict_load(factory, model, unwritten(wanted), python_path=paths, exempt=free)


def differences(found: Schema, wanted: Schema, ours: str, theirs: str) -> tuple[str, ...]:
    """Every difference of two schemas, widths of floats too; () where they are equal."""
    lines = describe(compare(found, wanted), found=ours, wanted=theirs)
    return _shortened(lines + describe_notes(notes(found, wanted)))


def _shortened(lines: tuple[str, ...]) -> tuple[str, ...]:
    more = len(lines) - _MOST_LINES
    return (*lines[:_MOST_LINES], f"… {more} more") if more > 0 else lines


def _traced(tried: Subject, model: str, head: str | None) -> Trace:
    """The whole chain on the base snapshot of a model."""
    base = tried.replay(model).base
    scripts = tried.history.path_up(None, head)
    try:
        return trace(scripts, start(base.schema, ties=base.ties), tried.project.params)
    except CkmigrateError as error:
        if is_unknown_metadata(error):
            raise SkipTest(
                f"{error.where}: it reads metadata, which a snapshot does not have; parameters in "
                "[tool.ckmigrate.params] are known here (ck.params)"
            ) from None
        error.details += (f"tried on the base snapshot of model '{model}'",)
        raise


def _require_head_snapshot(tried: Subject, model: str, done: Trace) -> None:
    path = tried.project.head_snapshot_path(model)
    if not path.is_file():
        return
    wanted = read_snapshot(path)
    lines = differences(done.end.schema, wanted.schema, "head", "snapshot")
    lines += describe_ties(compare_ties(done.end.ties, wanted.ties, wanted.schema))
    if lines:
        raise VerificationError(
            "CKM630",
            f"the migrations do not lead to the committed snapshot of model '{model}'",
            where=str(path),
            details=lines,
            why="It was written by other scripts than those that are here now.",
            fix="Undo the change of the scripts, or record it if it is meant: ckmigrate lock.",
        )


def _require_size(nbytes: int, max_bytes: int) -> None:
    if nbytes > max_bytes:
        raise SkipTest(
            f"a synthetic checkpoint would have {nbytes >> 20} MiB, more than the limit of "
            f"{max_bytes >> 20}; give the models of the configuration a small one beside it, which "
            "goes through the same scripts, or raise ckmigrate_max_megabytes"
        )


def _require_said(done: Trace, values: Values, accept: Sequence[str]) -> None:
    for traced in done.scripts:
        script = traced.script
        found = unsaid(traced, values.numbering)
        if any(script.id.startswith(text) for text in accept if text):
            continue
        if found.lost and script.irreversible is None:
            raise VerificationError(
                "CKM631",
                f"{script.path.name} loses values, and does not say so",
                where=str(script.path),
                details=_shortened(found.lost),
                why="They were taken or overwritten, and nothing that was assigned holds them. "
                "The names are those at the base.",
                fix="Assign all parts, then ck.drop(…, reason=…) what is not needed; or declare "
                'irreversible = "why"; or list the revision in ckmigrate_accept.',
            )
        if found.repeated:
            raise VerificationError(
                "CKM632",
                f"{script.path.name} puts values into several places, and does not say so",
                where=str(script.path),
                details=_shortened(found.repeated),
                why="More than one part of what was assigned holds them. The names are those at "
                "the base.",
                fix="Correct the slices; if it is meant use ck.copy or ck.gather, or list the "
                "revision in ckmigrate_accept.",
            )


def _upgraded(
    tried: Subject, model: str, done: Trace, values: Values, folder: Path
) -> Mapping[str, torch.Tensor]:
    """What torch reads of the file that the upgrade of a synthetic file wrote."""
    import torch

    base = tried.replay(model).base
    edits = [record.edit for script in done.scripts for record in script.records if record.edit]
    state = synthetic_state(base, values)
    torch.save({**placeholders(edits), "state_dict": state} if edits else state, folder / "old.pt")
    # Where weights sit in the project's own files is not how this one is made.
    project = replace(tried.project, weights=None)
    request = Request(from_revision="base", use_model=False, model=model)
    known = {model: tried.replay(model)}
    try:
        prepared = prepare(project, tried.history, folder / "old.pt", request, known=known)
    except MigrationError as error:
        if error.code in _META_ERRORS:
            raise SkipTest(f"it needs metadata that a synthetic file lacks: {error.what}") from None
        raise
    carry_out(prepared, Destination(folder / "new.pt"))
    loaded = torch.load(folder / "new.pt", weights_only=True)
    found: Mapping[str, torch.Tensor] = loaded["state_dict"] if edits else loaded
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _require_values(
    done: Trace, values: Values, written: Mapping[str, torch.Tensor], model: str
) -> None:
    """Every tensor of the file, as torch reads it, holds what the plan says."""
    lines = differences(schema_of(written), done.end.schema, "file", "plan")
    if not lines:
        lines = _shortened(tuple(_wrong_values(done, values, written)))
    if lines:
        raise VerificationError(
            "CKM633",
            f"the upgraded file of model '{model}' does not hold what the plan says",
            details=lines,
            why="It was read again by torch.load and compared element by element.",
            fix="Please report this with the scripts: it is a defect of ckmigrate.",
        )


def _wrong_values(
    done: Trace, values: Values, written: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    import torch

    entries = done.end.entries
    evaluator = values.evaluator(entries.values())
    for name, expr in entries.items():
        wanted = values.data(expr, None if is_structural(expr) else evaluator)
        found = written[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if wanted != found:
            count = sum(a != b for a, b in zip(wanted, found, strict=False))
            yield f"'{name}': {count} of {len(wanted)} bytes differ"
