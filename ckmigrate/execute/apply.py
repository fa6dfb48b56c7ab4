"""Change the files of a checkpoint in place: all of it, or nothing.

The old bytes of everything that changes go into an undo record beside the checkpoint, which is on
stable storage before the first byte changes. One rename of that record ends the change. Until then
the old version can be had back, by this run when something fails and by the next when this one is
killed; `ckmigrate.execute.undo` does it. tests/faults fails and kills every step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Committed, force_folder, give_mode, told_if_interrupted
from ckmigrate.execute.failures import explained
from ckmigrate.execute.lock import Lock
from ckmigrate.execute.patch import FilePatch, Patch
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.source import changed
from ckmigrate.execute.temporary import remove_stale, temporary
from ckmigrate.execute.undo import kept_path, member, open_member, pending_path, roll_back
from ckmigrate.execute.undo_record import Saved, UndoRecord, encode, encode_after
from ckmigrate.formats.base import FileIdentity, StoredFile

__all__ = ["apply"]

_CANNOT_INSERT: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EPERM}
)


def apply(
    patch: Patch,
    *,
    path: Path,
    revision: str,
    keep: bool,
    verify: Callable[[], None],
    lock: Lock,
) -> Committed:
    """Carry out a patch of the locked checkpoint, and return when it is on stable storage.

    path      the checkpoint as the user named it
    revision  where it is now, as text; it names the undo record that is kept
    keep      keep that record, as the backup of the result
    verify    reads the changed files as a stranger would; whatever it raises takes them back

    On any exception but `InterruptedAfterCommit` and CKM758 the checkpoint is the old one, unless
    even the disk refuses that (CKM775): then the undo record stays, and the next run rolls back.

    Raises StorageError CKM753 (changed meanwhile), CKM776 (no room for the header, and the file
    system can make none), CKM777 (the file has other names), and those of `commit`.
    """
    target = lock.path
    with told_if_interrupted() as done, explained(path):
        remove_stale(target)
        run = _Run(target, patch, _record(target, patch, revision), keep)
        try:
            run.publish()
            for file in patch.files:
                run.change(file)
            verify()
            committed = Committed(path, run.keep_after())
            with signals_held():
                run.finish(committed.backup)
                done.append(committed)
        except BaseException as error:
            if not done:
                run.take_back(error)
            raise
        force_folder(target)
        return committed


# --- what it was ------------------------------------------------------------------------------


def _record(target: Path, patch: Patch, revision: str) -> UndoRecord:
    return UndoRecord(target.name, revision, tuple(_saved(target, file) for file in patch.files))


def _saved(target: Path, file: FilePatch) -> Saved:
    """The old bytes of a file, once it is known to be the one that the patch is for."""
    if file.identity is None:
        ((_, content),) = file.writes
        digest = hashlib.sha256(content).hexdigest()
        _require_absent(member(target, file.name))
        return Saved(file.name, None, 0, 0, file.size, (), digest)
    fd = open_member(target, file.name)
    try:
        found = syscalls.stat(fd)
        _check(member(target, file.name), file, found)
        if file.insert and syscalls.hole(fd)[0] < found.st_size:
            raise _cannot_insert(member(target, file.name), "the file has holes")
        old = tuple((at, syscalls.pread(fd, n, offset=at)) for at, n in file.overwritten)
    finally:
        syscalls.close(fd)
    mode = S_IMODE(found.st_mode) & 0o777
    return Saved(file.name, file.identity, mode, file.insert, file.size, old)


def _require_absent(path: Path) -> None:
    found = syscalls.lstat(path)
    if found is not None:
        raise changed(StoredFile(path, FileIdentity(0, 0, 0, 0)), FileIdentity.of(found))


def _check(path: Path, file: FilePatch, found: os.stat_result) -> None:
    assert file.identity is not None
    if FileIdentity.of(found) != file.identity:
        raise changed(StoredFile(path, file.identity), FileIdentity.of(found))
    if found.st_nlink != 1:
        raise StorageError(
            "CKM777",
            f"{path.name} has {found.st_nlink} names (hard links)",
            where=str(path),
            why="A change in place would change it under all of them; one may be a backup.",
            fix="Upgrade without --fast, which writes a new file and leaves the others alone.",
        )


def _cannot_insert(path: Path, why: str) -> StorageError:
    return StorageError(
        "CKM776",
        f"the header of {path.name} has no room for the new one",
        where=str(path),
        why=f"Room could not be made in front of the data without copying it: {why}.",
        fix="Upgrade without --fast: the copy has room for later. Nothing was changed.",
    )


# --- what it becomes --------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """A patch on its way; `began` once the record is where the next run would find it."""

    target: Path
    patch: Patch
    record: UndoRecord
    keep: bool
    began: bool = False

    def publish(self) -> None:
        """The undo record, complete and forced to stable storage, under the name of a change that
        is not done."""
        with temporary(self.target) as file:
            syscalls.pwrite(file.fd, encode(self.record), offset=0)
            syscalls.fsync(file.fd)
            self.began = True
            syscalls.rename(file.path, pending_path(self.target))
            syscalls.fsync_folder(self.target.parent)

    def change(self, file: FilePatch) -> None:
        path = member(self.target, file.name)
        if file.identity is None:
            self._create(path, file)
        elif file.size is None:
            syscalls.unlink(path)
            syscalls.fsync_folder(path.parent)
        else:
            fd = open_member(self.target, file.name)
            try:
                _check(path, file, syscalls.stat(fd))
                _rewrite(fd, path, file)
            finally:
                syscalls.close(fd)

    def _create(self, path: Path, file: FilePatch) -> None:
        with temporary(self.target) as new:
            for offset, data in file.writes:
                syscalls.pwrite(new.fd, data, offset=offset)
            give_mode(new.fd, None)
            syscalls.fsync(new.fd)
            syscalls.rename_new(new.path, path)
        syscalls.fsync_folder(path.parent)

    def keep_after(self) -> Path | None:
        """Add what the files are now to the record, and choose its last name."""
        if not self.keep:
            return None
        found = [syscalls.lstat(member(self.target, file.name)) for file in self.patch.files]
        after = tuple(None if stat is None else FileIdentity.of(stat) for stat in found)
        fd = syscalls.open_fd(pending_path(self.target), os.O_RDWR | os.O_NOFOLLOW)
        try:
            size = syscalls.stat(fd).st_size
            syscalls.pwrite(fd, encode_after(after), offset=size)
            syscalls.fsync(fd)
        finally:
            syscalls.close(fd)
        return kept_path(self.target, self.record.revision)

    def finish(self, kept: Path | None) -> None:
        """The one step that ends the change."""
        if kept is None:
            syscalls.unlink(pending_path(self.target))
        else:
            syscalls.rename(pending_path(self.target), kept)

    def take_back(self, cause: BaseException) -> None:
        """The old version, after something failed; CKM775 where that fails too."""
        if not self.began:
            return
        try:
            roll_back(self.target, self.record)
        except OSError as error:
            raise StorageError(
                "CKM775",
                f"{self.target.name} is half changed, and could not be rolled back: "
                f"{error.strerror or error}",
                where=str(self.target),
                why=f"First this failed: {cause}. The undo record is beside the checkpoint, and "
                "with it everything that the old version needs.",
                fix="When the disk can be written again: "
                f"ckmigrate undo {shlex.quote(str(self.target))}",
            ) from cause


def _rewrite(fd: int, path: Path, file: FilePatch) -> None:
    assert file.size is not None
    if file.insert:
        _insert(fd, path, file.insert)
    for offset, data in file.writes:
        syscalls.pwrite(fd, data, offset=offset)
    if syscalls.stat(fd).st_size != file.size:
        syscalls.truncate(fd, file.size)
    # One try only: after a failed fsync the kernel forgets what it could not write.
    syscalls.fsync(fd)
    for offset, data in file.writes:
        if syscalls.pread(fd, len(data), offset=offset) != data:
            raise OSError(errno.EIO, "what was written reads back differently")


def _insert(fd: int, path: Path, nbytes: int) -> None:
    """Make room in front, on stable storage before anything is written into it: rolling back tells
    by that how far it came."""
    try:
        syscalls.insert_range(fd, nbytes, offset=0)
    except OSError as error:
        if error.errno not in _CANNOT_INSERT:
            raise
        why = f"this file system cannot insert ({error.strerror})"
        raise _cannot_insert(path, why) from error
    syscalls.fsync(fd)
