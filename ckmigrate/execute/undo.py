"""Taking a change in place back: after a crash, or because somebody wants the old version.

While a checkpoint is changed, its undo record lies beside it under a hidden name. Whoever finds it
there finds a change that is running or was cut off: commands that read refuse, commands that write
roll it back first. When the change is done the record is renamed to NAME.undo-REVISION, in one
step, and is a small backup from then on.

Rolling back may be cut off too, at any point and as often as it likes: every step of it may be done
again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.lock import real_path
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.temporary import key_of, names_in, remove_stale, temporary
from ckmigrate.execute.undo_record import DamagedRecord, Saved, UndoRecord, decode
from ckmigrate.formats.base import FileIdentity

__all__ = [
    "Undone",
    "kept_path",
    "member",
    "open_member",
    "pending_path",
    "require_settled",
    "roll_back",
    "settle",
    "undo_newest",
]

_LARGEST: Final = 1 << 30
_MOST_NAMED: Final = 3
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_NO_REVISION: Final = re.compile(r"[^0-9A-Za-z_-]")


@dataclass(frozen=True, slots=True)
class Undone:
    """A change that was taken back.

    revision   where the checkpoint is again, as text
    was_done   whether the change had been completed; otherwise it had been cut off
    """

    path: Path
    revision: str
    was_done: bool


# --- names ------------------------------------------------------------------------------------


def pending_path(target: Path) -> Path:
    """The record of a change of `target` (a real path) that is not done."""
    return target.with_name(f".ckmigrate-{key_of(target)}.undo")


def kept_path(target: Path, revision: str) -> Path:
    """A free name for the record of a change that is done: NAME.undo-REVISION beside it."""
    wanted = target.with_name(f"{target.name}.undo-{_NO_REVISION.sub('', revision)}")
    path, number = wanted, 1
    while syscalls.lstat(path) is not None:
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


def member(target: Path, name: str) -> Path:
    """A file of the checkpoint; StorageError CKM777 where a symbolic link leads out of it."""
    path = target / name if name else target
    if real_path(path) == path:
        return path
    raise StorageError(
        "CKM777",
        f"{path.name} is a symbolic link",
        where=str(path),
        why="A change in place would change the file that the link leads to, for everybody who "
        "uses it; the caches of model hubs share such files.",
        fix="Upgrade without --fast, which writes new files.",
    )


def open_member(target: Path, name: str) -> int:
    """A descriptor to change a regular file of the checkpoint with; CKM777 where it is a link."""
    path = member(target, name)
    fd = syscalls.open_fd(path, _WRITE)
    if S_ISREG(os.fstat(fd).st_mode):
        return fd
    syscalls.close(fd)
    raise _unfit(path, "it is not a regular file")


def require_settled(path: Path) -> None:
    """Nothing, unless a change of this checkpoint, or of the folder that it is in, is not done.

    StorageError CKM773 otherwise: what is read might be half the old and half the new one.
    """
    target = real_path(path)
    for candidate in (target, target.parent):
        if os.path.lexists(pending_path(candidate)):
            raise StorageError(
                "CKM773",
                f"{candidate.name} is being changed in place, or a run that did so was cut off",
                where=str(path),
                why=f"The undo record {pending_path(candidate).name} lies beside it: the file may "
                "be half the old and half the new version.",
                fix="Wait for the run; if there is none: "
                f"ckmigrate undo {shlex.quote(str(candidate))}",
            )


# --- reading a record -------------------------------------------------------------------------


def _read(path: Path, target: Path) -> UndoRecord:
    """The record at `path`, which is about `target`; CKM774 where it is not one that we trust."""
    try:
        fd = syscalls.open_fd(path, _READ)
    except OSError as error:
        raise _unfit(path, f"it cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            raise _unfit(path, "it is no regular file, or too large")
        if found.st_uid not in (0, os.geteuid(), os.stat(target).st_uid):
            raise _unfit(path, f"it belongs to user {found.st_uid}, who could make us write")
        record = decode(syscalls.pread(fd, found.st_size, offset=0) if found.st_size else b"")
    except DamagedRecord as damage:
        raise _unfit(path, str(damage)) from None
    finally:
        syscalls.close(fd)
    _check_kind(path, target, record)
    return record


def _check_kind(path: Path, target: Path, record: UndoRecord) -> None:
    is_folder = target.is_dir()
    if record.target != target.name or any((file.name != "") != is_folder for file in record.files):
        raise _unfit(path, f"it is about {record.target!r:.80}")


def _unfit(path: Path, why: str) -> StorageError:
    return StorageError(
        "CKM774",
        f"{path.name} cannot be used to undo a change",
        where=str(path),
        why=why,
        fix="If you know that the checkpoint is whole (ckmigrate verify, after moving the record "
        "away), remove the record; otherwise restore the checkpoint from another copy.",
    )


# --- taking back ------------------------------------------------------------------------------


def settle(target: Path) -> Undone | None:
    """Roll back a change of the checkpoint that was cut off; None where there was none.

    target  a real path, of which the caller has the lock
    """
    pending = pending_path(target)
    with _rolled(target):
        if syscalls.lstat(pending) is None:
            return None
        remove_stale(target)
        record = _read(pending, target)
        roll_back(target, record)
    return Undone(target, record.revision, was_done=False)


def undo_newest(target: Path) -> Undone:
    """Take back the change in place that made the checkpoint what it is now.

    target  a real path, of which the caller has the lock

    StorageError CKM778 where no kept record tells how: there is none, or the checkpoint was changed
    since.
    """
    found = [target.with_name(name) for name in sorted(names_in(target.parent), reverse=True)]
    kept = [path for path in found if path.name.startswith(f"{target.name}.undo-")]
    reasons = []
    for path in kept:
        try:
            record = _read(path, target)
            reason = _differs(target, record)
        except StorageError as error:
            reason = error.why
        if reason is None:
            with _rolled(target):
                # From here on a crash ends in the old version as well.
                syscalls.rename(path, pending_path(target))
                syscalls.fsync_folder(target.parent)
                roll_back(target, record)
            return Undone(target, record.revision, was_done=True)
        reasons.append(f"{path.name}: {reason}")
    raise StorageError(
        "CKM778",
        f"there is nothing to undo for {target.name}",
        where=str(target),
        details=tuple(reasons),
        why="Only `--in-place --fast` keeps an undo record, and it is of use as long as the "
        "checkpoint is exactly what that run left.",
        fix="`ckmigrate downgrade` leads back by the scripts" + _kept_beside(target),
    )


def _kept_beside(target: Path) -> str:
    """How a fix goes on: what runs without --fast kept."""
    found = sorted(n for n in names_in(target.parent) if n.startswith(f"{target.name}.bak-"))
    if not found:
        return "; a run without --fast keeps the old version as NAME.bak-REVISION."
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    word = "is an old version" if len(found) == 1 else "are old versions"
    return (
        f"; {', '.join(found[:_MOST_NAMED])}{more} beside it {word}, kept by runs without --fast."
    )


def _differs(target: Path, record: UndoRecord) -> str | None:
    """Why the checkpoint is not what the change left; None where it is."""
    if record.after is None:
        return "the change was never completed"
    for file, after in zip(record.files, record.after, strict=True):
        now = syscalls.lstat(member(target, file.name))
        if after is None or now is None:
            if now is not None or after is not None:
                return f"{file.name or target.name} came or went since"
            continue
        found = FileIdentity.of(now)
        if (found.inode, found.size, found.mtime_ns) != (after.inode, after.size, after.mtime_ns):
            return f"{file.name or target.name} was written again since"
    return None


@contextmanager
def _rolled(target: Path) -> Iterator[None]:
    """CKM775 where the system fails; the record stays, so that it can be tried again."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            "CKM775",
            f"{target.name} could not be rolled back: {error.strerror or error}",
            where=str(target),
            why="The undo record is still there, with everything that the old version needs.",
            fix=f"When the disk can be written again: ckmigrate undo {shlex.quote(str(target))}",
        ) from error


def roll_back(target: Path, record: UndoRecord) -> None:
    """Give every file its old bytes, sizes and times; then the pending record goes.

    All files are looked at before the first is touched. OSError where the system fails, and then
    it may be called again; StorageError CKM774 where a file is not the one that was changed.
    """
    with signals_held():
        for file in record.files:
            _check_file(target, file)
        for file in record.files:
            _restore(target, file)
        if syscalls.lstat(pending_path(target)) is not None:
            syscalls.unlink(pending_path(target))
        syscalls.fsync_folder(target.parent)


def _check_file(target: Path, file: Saved) -> None:
    path = member(target, file.name)
    found = syscalls.lstat(path)
    if file.identity is None or (found is None and file.size is None):
        return
    # The number of the device may be another one after a restart.
    if found is None or (found.st_ino != file.identity.inode and file.size is not None):
        raise _unfit(path, "it is another file than the one that was changed")
    if file.size is not None and not _is_possible(found.st_size, file):
        raise _unfit(path, f"it has {found.st_size} bytes, which no part of the change makes")


def _is_possible(size: int, file: Saved) -> bool:
    assert file.identity is not None
    assert file.size is not None
    if file.insert:
        return size == file.identity.size or file.identity.size + file.insert <= size <= file.size
    return min(file.identity.size, file.size) <= size <= max(file.identity.size, file.size)


def _restore(target: Path, file: Saved) -> None:
    if file.identity is None:
        _remove_created(target, file)
        return
    path = member(target, file.name)
    if syscalls.lstat(path) is None:
        _recreate(target, path, file)
        return
    fd = open_member(target, file.name)
    try:
        if file.insert and syscalls.stat(fd).st_size != file.identity.size:
            _take_out(fd, file.insert, file.identity.size)
            syscalls.fsync(fd)
        for offset, data in file.old:
            syscalls.pwrite(fd, data, offset=offset)
        _finish(fd, file.identity)
    finally:
        syscalls.close(fd)


def _finish(fd: int, identity: FileIdentity) -> None:
    if syscalls.stat(fd).st_size != identity.size:
        syscalls.truncate(fd, identity.size)
    syscalls.utime(fd, identity.mtime_ns)
    syscalls.fsync(fd)


def _take_out(fd: int, nbytes: int, old_size: int) -> None:
    """Close the gap that an insertion of `nbytes` made, wherever a crash has left it.

    File systems grow the file first and then move its extents, the last one first, each in a
    transaction of its own: half-way, the gap is a hole of exactly `nbytes` further back, or all
    that is behind the old end. The file had no hole before, so that a hole tells where the gap is.
    In an insertion that was completed it is at the front, and some or all of it is written.
    """
    size = old_size + nbytes
    if syscalls.stat(fd).st_size > size:
        syscalls.truncate(fd, size)  # what was added behind the end
    begin, end = syscalls.hole(fd)
    if end == size and old_size <= begin < size:
        syscalls.truncate(fd, old_size)
        return
    if begin >= size or end <= nbytes:
        begin = 0
    elif end - begin != nbytes:
        raise OSError(f"a hole of {end - begin} bytes at {begin}, where {nbytes} were inserted")
    syscalls.collapse_range(fd, nbytes, offset=begin)


def _remove_created(target: Path, file: Saved) -> None:
    """Only what the change has made: a file of exactly its content."""
    path = member(target, file.name)
    if syscalls.lstat(path) is None:
        return
    fd = open_member(target, file.name)
    try:
        content = syscalls.pread(fd, file.size or 0, offset=0)
        if hashlib.sha256(content).hexdigest() != file.created:
            raise _unfit(path, "it should be a new file, and has other content")
    finally:
        syscalls.close(fd)
    syscalls.unlink(path)
    syscalls.fsync_folder(path.parent)


def _recreate(target: Path, path: Path, file: Saved) -> None:
    """A file that was removed: its content under its name again, all at once."""
    assert file.identity is not None
    with temporary(target) as new:
        for offset, data in file.old:
            syscalls.pwrite(new.fd, data, offset=offset)
        syscalls.chmod(new.fd, file.mode)
        _finish(new.fd, file.identity)
        syscalls.rename(new.path, path)
    syscalls.fsync_folder(path.parent)
