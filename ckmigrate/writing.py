"""Writing one checkpoint completely: lock it, decide, carry out. The command line and
`ckmigrate.upgrade` do it here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.execute.commit import Destination, InterruptedAfterCommit
from ckmigrate.execute.lock import Lock, locked
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.execute.undo import settle
from ckmigrate.fast import carry_out_in_place
from ckmigrate.formats.folder_names import folder_of
from ckmigrate.migrate import Outcome, Prepared, carry_out
from ckmigrate.output import folder_format
from ckmigrate.report.undone import undone_text
from ckmigrate.report.units import counted

__all__ = ["Watcher", "Way", "changes", "write_checkpoint"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a result is written.

    in_place  the checkpoint itself is replaced, under its lock
    fast      in place, and by changing headers only
    backup    in place, the old version is kept
    skips     what needs nothing is not written
    """

    in_place: bool = False
    fast: bool = False
    backup: bool = True
    skips: bool = False


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who hears of the work on one checkpoint.

    progress  the bytes of each write
    phase     the name of each stage, and its bytes
    note      a remark about the checkpoint
    undone    that a change in place which was cut off was taken back, in words
    """

    progress: Callable[[int], None] = lambda done: None
    phase: Callable[[str, int], None] = lambda name, total: None
    note: Callable[[str], None] = lambda text: None
    undone: Callable[[str], None] = lambda text: None


def write_checkpoint(
    path: Path,
    decide: Callable[[Path], Prepared],
    place: Callable[[Prepared], Destination],
    way: Way,
    watcher: Watcher,
) -> Outcome | Prepared:
    """Decide and carry out; what was decided where it needs nothing and the way skips that.

    In place the lock is taken before the revision is read. `place` is asked once it is certain that
    something is written. KeyboardInterrupt that comes too late to stop anything is an
    InterruptedAfterCommit; otherwise raises whatever a step raises.
    """
    outcome: Outcome | None = None
    try:
        with locked(folder_of(path)) if way.in_place else nullcontext() as lock:
            if lock is not None:
                _clear(path, lock, watcher)
            prepared = decide(path)
            for note in prepared.notes:
                watcher.note(note)
            if way.skips and not changes(prepared):
                return prepared
            outcome = _carried_out(prepared, place(prepared), way, watcher, lock)
    except KeyboardInterrupt as interrupt:
        # While the lock is released, the new file stands already.
        if outcome is None:
            raise
        raise InterruptedAfterCommit(outcome.committed) from interrupt
    return outcome


def _clear(path: Path, lock: Lock, watcher: Watcher) -> None:
    """Take back what a dead run left: in a folder it would be read as part of it."""
    if (undone := settle(lock.path)) is not None:
        watcher.undone(undone_text(path, undone))
    remove_stale_folders(lock.path)


def _carried_out(
    prepared: Prepared, destination: Destination, way: Way, watcher: Watcher, lock: Lock | None
) -> Outcome:
    if (left := _left_behind(prepared, destination)) is not None:
        watcher.note(left)
    if way.fast and lock is not None:
        return carry_out_in_place(prepared, keep=way.backup, phase=watcher.phase, lock=lock)
    return carry_out(
        prepared, destination, progress=watcher.progress, phase=watcher.phase, lock=lock
    )


def changes(prepared: Prepared) -> bool:
    """Whether the file would differ, be it in what lies beside the weights only."""
    request, layout = prepared.request, prepared.opened.layout
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    drops = any(policy.get(item.kind) == "drop" for item in layout.training_state)
    folder = prepared.opened.stored.folder
    beside = layout.path or layout.extras or layout.training_state or (folder and folder.others)
    bare = request.weights_only and beside
    unwraps = request.unwrap and layout.prefix
    resized = request.wants_folder and request.to_format != prepared.opened.stored.format
    return prepared.has_work or drops or bool(bare) or bool(unwraps) or resized


def _left_behind(prepared: Prepared, destination: Destination) -> str | None:
    """What a single file has no place for, of a source that is a folder."""
    stored = prepared.opened.stored
    folder = stored.folder
    beside = len(folder.others) + (folder.config is not None) if folder else 0
    result = folder_format(stored, prepared.request.to_format, prepared.request.max_shard_size)
    if not beside or (destination.folder and result == stored.format):
        return None
    kind = "another kind of folder" if destination.folder else "a single file"
    stay = "stays" if beside == 1 else "stay"
    return f"{counted(beside, 'file')} beside the shards {stay} there; the result is {kind}"
