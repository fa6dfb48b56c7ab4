"""`ckmigrate upgrade`, and the writing that `downgrade` and `stamp` share with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import Work, each, write_all
from ckmigrate.cli.collect import Collection, Found, collect
from ckmigrate.cli.destination import Placement, check_layout, place
from ckmigrate.cli.misplaced import require_paths
from ckmigrate.cli.options import (
    batch_options,
    make_request,
    output_options,
    paths_argument,
    reading_options,
    result_options,
)
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.cli.skipping import finished, resumes, skips_current
from ckmigrate.execute.preflight import Destination
from ckmigrate.migrate import (
    Direction,
    Prepared,
    Request,
    finding_once,
    prepare,
    replays,
)
from ckmigrate.report.escape import printable
from ckmigrate.report.outcome import outcome_data, outcome_text, untouched_data, untouched_text
from ckmigrate.writing import Watcher, Way, changes, write_checkpoint

__all__ = ["BATCH", "OUTPUT", "command", "find", "migrate_all", "write"]

OUTPUT = ("out", "out_dir", "in_place", "fast", "no_backup", "overwrite")
BATCH = ("jobs", "keep_going", "copy_current")


@click.command("upgrade", cls=Verb)
@paths_argument
@click.option("--to", default="head", metavar="REV", help="Where to; the head by default.")
@output_options
@batch_options
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and write nothing.")
@reading_options
@result_options
@click.option("--no-model", is_flag=True, help="Compare with the snapshot; no strict load.")
@pass_session
def command(
    session: Session,
    paths: tuple[Path, ...],
    to: str,
    dry_run: bool,
    no_model: bool,
    **options: Any,
) -> Answer:
    """Migrate checkpoints to a newer revision: find out where each is, apply the scripts that are
    missing, prove that today's model loads the result strictly, and only then write it.

    Whatever happens (an error, Ctrl-C, kill -9, a full disk, a power cut), the path that you gave
    holds either the complete old checkpoint or the complete new one. With exit code 0 the new one
    was verified and is on stable storage. With -o the source is only read; --in-place keeps the old
    version unless --no-backup. Two upgrades of one checkpoint cannot run at once. A run that was
    killed leaves at most a temporary file beside the target; the next run removes it.

    A folder of shards (with its config.json and whatever else is in it) is one checkpoint; give
    the folder. It keeps its layout unless --max-shard-size asks for another. So is the folder of a
    torch distributed checkpoint (DCP), from one rank or many.

    With --in-place --fast only headers change, in a time that does not depend on the size: names,
    shapes, parts along dim 0, the tag. It is refused where the plan needs more (`ckmigrate plan`
    tells beforehand), and `ckmigrate undo` takes it back.

    PATH may also be a folder, which is searched, or a pattern in quotes; --out-dir keeps the
    folders below it. After a failure no further checkpoint is begun, unless --keep-going; the exit
    code is that of the first failure. What is at REV already is skipped, but where one file is
    named and goes to -o or --out-dir: then it is written even if there is nothing to migrate. So a
    run over many can be repeated: results that it finished are left as they are. With --jobs each
    process does whole checkpoints; --max-memory is for each of them.

    \b
    Example:  ckmigrate upgrade old.ckpt -o new.ckpt
              ckmigrate upgrade runs/ --out-dir migrated --jobs 4 --keep-going
              ckmigrate upgrade 'runs/**/last.ckpt' --in-place
              ckmigrate upgrade model.safetensors --in-place
              ckmigrate upgrade model.safetensors --in-place --fast
              ckmigrate upgrade llama/ -o llama-new --max-shard-size 5GB
    """
    options["to"], options["use_model"] = to, not no_model
    return migrate_all(session, paths, options, direction="up", dry_run=dry_run)


def migrate_all(
    session: Session,
    paths: tuple[Path, ...],
    options: dict[str, Any],
    *,
    direction: Direction,
    dry_run: bool,
) -> Answer:
    """Upgrade or downgrade every checkpoint, or show the plans."""
    output = {name: options.pop(name) for name in OUTPUT}
    batch = {name: options.pop(name) for name in BATCH}
    is_placed = any(output[name] for name in ("out", "out_dir", "in_place"))
    check_layout(options["max_shard_size"], options["to_format"])
    sharded = options["max_shard_size"] is not None or options["to_format"] is not None
    verb = session.verb or ""
    collection = find(session, paths, output)
    # The head is where an upgrade goes anyway.
    to = None if verb == "upgrade" and options["to"] == "head" else options["to"]
    placement = (
        place(collection, verb=verb, revision=to, sharded=sharded, **output)
        if is_placed or not dry_run
        else None
    )
    request = make_request(**options)
    if dry_run or placement is None:
        return _plans(session, collection, placement, request, direction)
    skips = skips_current(collection, output, batch)
    job = Migrating(placement, request, direction, skips, resumes(collection, placement))
    return write_all(session, collection, job, jobs=batch["jobs"], keep_going=batch["keep_going"])


@dataclass(frozen=True, slots=True)
class Migrating:
    """The job of `upgrade` and `downgrade`; `skips` says that what needs nothing is not written,
    `resumes` that a result which an earlier run has finished is left as it is."""

    placement: Placement
    request: Request
    direction: Direction
    skips: bool
    resumes: bool

    def begin(self, session: Session) -> Work:
        """Read the project, its history and its snapshots."""
        project = session.project()
        history = session.history(project)
        known = replays(project, history, self.request.params)
        find_model = finding_once()

        def decide(path: Path) -> Prepared:
            return prepare(
                project,
                history,
                path,
                self.request,
                direction=self.direction,
                known=known,
                find=find_model,
            )

        def one(found: Found, watch: Watch) -> Answer:
            if self.resumes and (done := finished(found, self.placement, decide)) is not None:
                return done
            self.placement.check(found)
            return write(session, found, self.placement, decide, watch, skips=self.skips)

        return one

    def title(self, found: Found) -> str:
        """The name of the result."""
        return self.placement.title(found)


def find(session: Session, paths: Sequence[Path], output: Mapping[str, Any]) -> Collection:
    """The checkpoints to write: a search leaves the results of an earlier run alone."""
    require_paths(session, paths)
    return collect(paths, leave_out=output["out_dir"], unique=output["in_place"])


def _plans(
    session: Session,
    collection: Collection,
    placement: Placement | None,
    request: Request,
    direction: Direction,
) -> Answer:
    project = session.project()
    history = session.history(project)
    known = replays(project, history, request.params)

    def one(found: Found, _: Watch) -> Answer:
        if placement is not None:
            placement.check(found)
        prepared = prepare(project, history, found.path, request, direction=direction, known=known)
        from ckmigrate.cli.plan import plan_answer

        return plan_answer(session, prepared)

    return each(session, (), one, found=collection)


def write(
    session: Session,
    found: Found,
    placement: Placement,
    decide: Callable[[Path], Prepared],
    watch: Watch,
    *,
    skips: bool,
) -> Answer:
    """Decide and carry out; in place under the lock, which is taken before the revision is read."""
    path = printable(found.path)

    def destination(prepared: Prepared) -> Destination:
        placement.make_folder(found)
        return placement.destination(found, prepared.identity.revision)

    done = write_checkpoint(
        found.path,
        decide,
        destination,
        Way(placement.in_place, placement.fast, placement.backup, skips),
        Watcher(
            watch.progress,
            watch.phase,
            note=lambda text: session.note(f"note: {path}: {printable(text)}"),
            undone=lambda text: session.note(f"note: {text}"),
        ),
    )
    if isinstance(done, Prepared):
        end = "not touched" if placement.in_place else "not copied"
        return Answer(untouched_data(done), untouched_text(done, end=end), outcome="current")
    kind = "written" if changes(done.prepared) else "copied"
    return Answer(outcome_data(done), outcome_text(done), outcome=kind)
