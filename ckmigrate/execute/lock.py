"""One upgrade of a checkpoint at a time.

The lock is an flock on a small file outside the model folder, named after the real path of the
checkpoint. A lock on the checkpoint itself would fail: after the rename there is another file under
the name. The kernel drops the lock when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls

__all__ = ["Lock", "already_running", "locked", "real_path"]


@dataclass(frozen=True, slots=True)
class Lock:
    """The right to change the checkpoint at `path`, a real path without symbolic links."""

    path: Path
    fd: int


def real_path(path: Path) -> Path:
    """The file that a path stands for, symbolic links followed; it need not exist."""
    return Path(os.path.realpath(path))


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Hold the lock of a checkpoint; read its revision only inside.

    Raises StorageError CKM754 at once where another thread or process has it, CKM759 where there is
    no folder to keep locks in.
    """
    target = real_path(path)
    fd = _acquire(target)
    try:
        yield Lock(target, fd)
    finally:
        syscalls.unlock(fd)
        syscalls.close(fd)


def already_running(path: Path, pid: str) -> StorageError:
    """CKM754, naming the process that has the lock."""
    return StorageError(
        "CKM754",
        f"another upgrade of {path.name} is running (pid {pid or 'unknown'})",
        where=str(path),
        why="two upgrades of one checkpoint at once would overwrite each other's result",
        fix="Wait until it has finished, then run again.",
    )


def _acquire(target: Path) -> int:
    """A descriptor that has the lock; StorageError CKM754 where another one has it."""
    fd = _open(_folder() / f"{hashlib.sha256(os.fsencode(target)).hexdigest()[:32]}.lock")
    try:
        if not syscalls.lock(fd):
            raise already_running(target, os.pread(fd, 20, 0).decode("ascii", "replace").strip())
        # For the message of whoever comes second; the lock itself is the kernel's.
        with suppress(OSError):
            syscalls.pwrite(fd, f"{os.getpid():<20}".encode(), offset=0)
    except OSError as error:
        syscalls.close(fd)
        raise _no_lock(error) from error
    except BaseException:
        syscalls.close(fd)
        raise
    return fd


def _open(path: Path) -> int:
    try:
        return syscalls.open_fd(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _no_lock(error) from error


def _folder() -> Path:
    """The first usable folder for locks, made if need be: it is ours alone."""
    problem = OSError(errno.ENOENT, "no folder for locks")
    for folder in _candidates():
        try:
            return _private(folder)
        except OSError as error:
            problem = error
    raise _no_lock(problem)


def _candidates() -> Iterator[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime) / "ckmigrate"
    # `tempfile` knows it too, and takes longer to import than a change in place takes.
    named = (os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp")
    # One of them only: a process that went on to the next would not see the lock of another.
    if folder := next(filter(_is_usable, named), None):
        yield Path(folder) / f"ckmigrate-{os.getuid()}"


def _is_usable(folder: str) -> bool:
    is_there = folder.startswith("/") and os.path.isdir(folder)
    return is_there and os.access(folder, os.W_OK | os.X_OK)


def _private(folder: Path) -> Path:
    """The folder, which exists now; PermissionError where others could tamper with it."""
    try:
        syscalls.mkdir(folder)
    except FileExistsError:
        pass
    found = syscalls.lstat(folder)
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "others could write to it", str(folder))
    return folder


def _no_lock(error: OSError) -> StorageError:
    place = f": {error.filename}" if error.filename else ""
    return StorageError(
        "CKM759",
        "cannot keep a lock while the checkpoint is upgraded",
        why=f"{error.strerror or error}{place}",
        fix="Set XDG_RUNTIME_DIR or TMPDIR to a folder of yours that you can write to; a folder "
        "of locks inside must belong to you and have mode 0700.",
    )
