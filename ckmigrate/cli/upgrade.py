"""`ckmigrate upgrade`, and the writing that `downgrade` and `stamp` share with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.destination import Placement, place
from ckmigrate.cli.options import (
    make_request,
    output_options,
    paths_argument,
    reading_options,
    result_options,
)
from ckmigrate.cli.plan import plan_answer
from ckmigrate.cli.progress import shown_progress
from ckmigrate.cli.session import Answer, Session
from ckmigrate.execute.commit import InterruptedAfterCommit
from ckmigrate.execute.lock import locked
from ckmigrate.execute.preflight import Destination
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.sharded import folder_of
from ckmigrate.migrate import Prepared, carry_out, prepare, replays
from ckmigrate.report.escape import printable
from ckmigrate.report.outcome import outcome_data, outcome_text, untouched_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import counted

__all__ = ["command", "migrate_all", "write"]

_OUTPUT = ("out", "out_dir", "in_place", "no_backup", "overwrite")


@click.command("upgrade", cls=Verb)
@paths_argument
@click.option("--to", default="head", metavar="REV", help="Where to; the head by default.")
@output_options
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
    the folder. It keeps its layout unless --max-shard-size asks for another.

    With -o and --out-dir the result is written even if there is nothing to migrate. A failure of
    one file does not stop the others; the exit code is that of the first failure.

    \b
    Example:  ckmigrate upgrade old.ckpt -o new.ckpt
              ckmigrate upgrade runs/*.ckpt --out-dir migrated
              ckmigrate upgrade model.safetensors --in-place
              ckmigrate upgrade llama/ -o llama-new --max-shard-size 5GB
    """
    options["to"], options["use_model"] = to, not no_model
    return migrate_all(session, paths, options, direction="up", dry_run=dry_run)


def migrate_all(
    session: Session,
    paths: tuple[Path, ...],
    options: dict[str, Any],
    *,
    direction: str,
    dry_run: bool,
) -> Answer:
    """Upgrade or downgrade every file, or show the plans."""
    output = {name: options.pop(name) for name in _OUTPUT}
    is_placed = any(output[name] for name in ("out", "out_dir", "in_place"))
    verb = "upgrade" if direction == "up" else "downgrade"
    sharded = options["max_shard_size"] is not None
    placement = (
        place(paths, verb=verb, sharded=sharded, **output) if is_placed or not dry_run else None
    )
    request = make_request(**options)
    project = session.project()
    history = session.history(project)
    known = replays(project, history, request.params)

    def decide(path: Path) -> Prepared:
        way: Any = direction
        return prepare(project, history, path, request, direction=way, known=known)

    def one(path: Path) -> Answer:
        if placement is not None:
            placement.check(path)
        if dry_run or placement is None:
            return plan_answer(session, decide(path))
        return write(session, path, placement, decide)

    return each(session, paths, one)


def write(
    session: Session, path: Path, placement: Placement, decide: Callable[[Path], Prepared]
) -> Answer:
    """Decide and carry out; in place under the lock, which is taken before the revision is read."""
    outcome = None
    try:
        with locked(folder_of(path)) if placement.in_place else nullcontext() as lock:
            if lock is not None:
                # What a dead run left in a folder would be read as part of it.
                remove_stale_folders(lock.path)
            prepared = decide(path)
            for note in prepared.notes:
                session.note(f"note: {printable(path)}: {printable(note)}")
            if placement.in_place and not _changes(prepared):
                return Answer(untouched_data(prepared), _nothing_to_do(prepared))
            placement.make_folder()
            destination = placement.destination(path, prepared.identity.revision)
            if (left := _left_behind(prepared, destination)) is not None:
                session.note(f"note: {printable(path)}: {left}")
            with shown_progress(session, destination.path.name) as (progress, phase):
                outcome = carry_out(
                    prepared, destination, progress=progress, phase=phase, lock=lock
                )
    except KeyboardInterrupt as interrupt:
        # While the bar goes or the lock is released, the new file stands already.
        if outcome is None:
            raise
        raise InterruptedAfterCommit(outcome.committed) from interrupt
    return Answer(outcome_data(outcome), outcome_text(outcome))


def _changes(prepared: Prepared) -> bool:
    """Whether the file would differ, be it in what lies beside the weights only."""
    request, layout = prepared.request, prepared.opened.layout
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    drops = any(policy.get(item.kind) == "drop" for item in layout.training_state)
    folder = prepared.opened.stored.folder
    beside = layout.path or layout.extras or layout.training_state or (folder and folder.others)
    bare = request.weights_only and beside
    unwraps = request.unwrap and layout.prefix
    resized = request.max_shard_size is not None
    return prepared.has_work or drops or bool(bare) or bool(unwraps) or resized


def _left_behind(prepared: Prepared, destination: Destination) -> str | None:
    """What a single file has no place for, of a source that is a folder."""
    stored = prepared.opened.stored
    beside = len(stored.files) - len(stored.folder.shards) if stored.folder else 0
    if not beside or destination.folder:
        return None
    return f"{counted(beside, 'file')} beside the shards stay there; the result is a single file"


def _nothing_to_do(prepared: Prepared) -> str:
    history, revision = prepared.history, prepared.to_revision
    head = "head, " if (revision,) == history.heads or not len(history) else ""
    path = printable(prepared.opened.stored.path)
    return f"{path}: already at {head}{revision_text(history, revision)}; not touched"
