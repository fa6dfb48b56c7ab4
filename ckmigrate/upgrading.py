"""`ckmigrate.upgrade` and `ckmigrate.plan`: the verbs of the command line for Python.

They take the options of these verbs as keywords, print nothing and never exit. Errors are the
`CkmigrateError`s that the command would report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from ckmigrate.asking import Options, Place, make_request, project_at
from ckmigrate.errors import UsageError
from ckmigrate.execute.preflight import Destination, backup_path, preflight
from ckmigrate.formats.folder_names import folder_of
from ckmigrate.migrate import Outcome, Prepared, prepare
from ckmigrate.output import becomes_folder, is_file_name
from ckmigrate.report.outcome import outcome_data, outcome_text, untouched_data, untouched_text
from ckmigrate.revisions.graph import read_history
from ckmigrate.writing import Watcher, Way, write_checkpoint

__all__ = ["Progress", "UpgradePlan", "Upgraded", "plan", "upgrade"]

Progress = Callable[[str, int, int], None]
"""Called with a stage ("check", "write", "verify"), bytes that are done, and bytes of all."""

_WAYS = 'Give an output, as in upgrade("old.pt", "new.pt"), or in_place=True.'


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of a checkpoint; `str()` is the line that the command prints.

    path           the checkpoint that was read
    output         what was written; None where it was there already
    backup         the name of the old version, or of the undo record; None where none is kept
    from_revision  where it was; None is the base
    to_revision    where the result is
    migrations     revisions of the scripts that ran, in their order
    notes          remarks that are no obstacles
    data           the fields of the command's JSON document
    """

    path: Path
    output: Path | None
    backup: Path | None
    from_revision: str | None
    to_revision: str | None
    migrations: tuple[str, ...]
    notes: tuple[str, ...]
    data: Mapping[str, object] = field(repr=False)
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What an upgrade would do; `str()` is the text that `ckmigrate plan` prints."""

    prepared: Prepared

    @property
    def from_revision(self) -> str | None:
        """Where the checkpoint is; None is the base."""
        return self.prepared.identity.revision

    @property
    def to_revision(self) -> str | None:
        """Where the result would be."""
        return self.prepared.to_revision

    @property
    def migrations(self) -> tuple[str, ...]:
        """Revisions of the scripts that would run; () where nothing is pending."""
        return _migrations(self.prepared)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks that are no obstacles."""
        return self.prepared.notes

    @property
    def data(self) -> dict[str, object]:
        """The fields of the command's JSON document (`ckmigrate.report.plan_json`)."""
        from ckmigrate.report.plan_json import plan_data

        return plan_data(self.prepared)

    def text(self, *, width: int = 80, full: bool = False) -> str:
        """The text for a width in columns; with `full` every group of tensors (`-v`)."""
        from ckmigrate.report.plan_text import plan_text

        return plan_text(self.prepared, width=width, full=full)

    def __str__(self) -> str:
        return self.text()


def plan(
    path: str | os.PathLike[str],
    *,
    to: str = "head",
    with_model: bool = False,
    project: Place | None = None,
    **options: Unpack[Options],
) -> UpgradePlan:
    """What `upgrade` would do with a checkpoint. No tensor is read and nothing is written.

    to          a revision as on the command line: "head", "+1", an id, a slug, a release
    with_model  compare with the model, which imports torch, and not with the committed snapshot
    project     whose history; that of the working directory by default

    Raises the CkmigrateError of whatever stands in the way.
    """
    request = make_request(options, to=to, use_model=with_model)
    found = project_at(project)
    return UpgradePlan(prepare(found, read_history(found.migrations), Path(path), request))


def upgrade(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
    fast: bool = False,
    no_backup: bool = False,
    overwrite: bool = False,
    to: str = "head",
    no_model: bool = False,
    project: Place | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Upgraded:
    """Migrate a checkpoint to a newer revision, proved and written as by `ckmigrate upgrade`.

    output     a file, or a folder for a folder; a text that ends in "/" always is a folder
    in_place   replace the checkpoint; one that needs nothing is not touched
    fast       with in_place: change headers only, or refuse
    no_backup  with in_place: keep no old version
    overwrite  replace an output that exists
    to         a revision as on the command line: "head", "+1", an id, a slug, a release
    no_model   compare with the committed snapshot, and do not load the result into the model
    project    whose history; that of the working directory by default
    progress   told of every stage and every write

    Raises the CkmigrateError of whatever stands in the way; then nothing was written. UsageError:
    CKM230 neither or both of output and in_place, CKM233 options that do not go together.
    """
    way = Way(in_place, fast, not no_backup, skips=in_place)
    request = make_request(options, to=to, use_model=not no_model)
    goal = _Goal(Path(path), output, way, overwrite, request.wants_folder)
    goal.check()
    found = project_at(project)
    history = read_history(found.migrations)
    notes: list[str] = []
    done = write_checkpoint(
        goal.source,
        lambda source: prepare(found, history, source, request),
        lambda prepared: goal.destination(prepared.identity.revision),
        way,
        _watcher(progress, notes),
    )
    return _told(goal.source, done, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Goal:
    """Where a result goes; `wanted` says that an option asks for a folder."""

    source: Path
    output: str | os.PathLike[str] | None
    way: Way
    overwrite: bool
    wanted: bool

    @property
    def path(self) -> Path:
        return folder_of(self.source) if self.output is None else Path(self.output)

    @property
    def wants_folder(self) -> bool:
        return self.wanted or str(self.output).endswith("/")

    def check(self) -> None:
        """Refuse what cannot be written, before the work; StorageError CKM75x."""
        if self.output is None and not self.way.in_place:
            raise UsageError("CKM230", "say where the result goes", fix=_WAYS)
        if self.output is not None and self.way.in_place:
            raise UsageError("CKM230", "the result can go to one place only", fix=_WAYS)
        self._check_options()
        self._check_folder()
        preflight(self.destination(None), 0, source=self.source)

    def _check_options(self) -> None:
        fast, keeps = self.way.fast, self.way.backup
        if not self.way.in_place and (fast or not keeps):
            name = "fast" if fast else "no_backup"
            fix = "A new file replaces nothing."
            raise UsageError("CKM233", f"{name} goes with in_place only", fix=fix)
        if self.way.in_place and self.overwrite:
            fix = "in_place replaces the source."
            raise UsageError("CKM233", "overwrite does not go with in_place", fix=fix)

    def _check_folder(self) -> None:
        from_folder = folder_of(self.source).is_dir()
        if self.wants_folder and self.way.in_place and not from_folder:
            raise UsageError(
                "CKM233",
                f"{self.source} is a file, and the result would be a folder",
                fix="Give a new folder as output.",
            )
        if self.wants_folder and not self.way.in_place and is_file_name(self.path):
            raise UsageError(
                "CKM233",
                f"{self.path.name} is the name of a file, and the result is a folder",
                fix=f"For example: {self.path.with_suffix('')}/",
            )
        if not self.wants_folder and not from_folder and self.path.is_dir():
            fix = f"Name a file in it: {self.path}/new.pt"
            raise UsageError("CKM232", f"the output {self.path} is a folder", fix=fix)

    def destination(self, revision: str | None) -> Destination:
        """The destination of a source that is at `revision`."""
        in_place = self.way.in_place
        folder = becomes_folder(
            self.path,
            source_is_folder=folder_of(self.source).is_dir(),
            in_place=in_place,
            wanted=self.wants_folder,
        )
        keeps = in_place and self.way.backup
        backup = backup_path(self.path, revision or "base") if keeps else None
        return Destination(self.path, in_place, folder, self.overwrite, backup)


def _watcher(progress: Progress | None, notes: list[str]) -> Watcher:
    """Counts what is written, and keeps the notes."""
    if progress is None:
        return Watcher(note=notes.append, undone=notes.append)
    told, stage, done, total = progress, "", 0, 0

    def phase(name: str, size: int) -> None:
        nonlocal stage, total
        stage, total = name, size or total
        told(stage, done, total)

    def wrote(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        told(stage, done, total)

    return Watcher(wrote, phase, notes.append, notes.append)


def _told(source: Path, done: Outcome | Prepared, notes: tuple[str, ...]) -> Upgraded:
    prepared = done.prepared if isinstance(done, Outcome) else done
    written = done.committed if isinstance(done, Outcome) else None
    return Upgraded(
        path=source,
        output=written.path if written else None,
        backup=written.backup if written else None,
        from_revision=prepared.identity.revision,
        to_revision=prepared.to_revision,
        migrations=_migrations(prepared),
        notes=notes,
        data=outcome_data(done) if isinstance(done, Outcome) else untouched_data(done),
        text=outcome_text(done) if isinstance(done, Outcome) else untouched_text(done),
    )


def _migrations(prepared: Prepared) -> tuple[str, ...]:
    return tuple(traced.script.id for traced in prepared.plan.trace.scripts)
