"""The system calls that a commit stands on, one thin function each.

Every byte that reaches a checkpoint goes through here, so a test can see, fail or kill each call:
set `before` and it is called with the call's name and arguments before the kernel is. A call that
may do less than it was asked to (a short read, a short write, a short copy) is repeated until
everything is done, and each repetition is announced apart. EINTR is retried by Python itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError

__all__ = [
    "before",
    "chmod",
    "chown",
    "close",
    "collapse_range",
    "copy_range",
    "exchange",
    "fsync",
    "fsync_folder",
    "hole",
    "insert_range",
    "link",
    "lock",
    "lstat",
    "mkdir",
    "open_fd",
    "pread",
    "pread_into",
    "preallocate",
    "pwrite",
    "read_ahead",
    "rename",
    "rename_new",
    "rmdir",
    "share_range",
    "start_writeback",
    "stat",
    "statvfs",
    "truncate",
    "unlink",
    "unlock",
    "utime",
]

before: Callable[[str, tuple[object, ...]], None] | None = None

_PIECE: Final = 64 << 20
_BUFFER: Final = 4 << 20
_CANNOT_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
)
_CANNOT_ALLOCATE: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EBADF}
)
_CANNOT_LINK: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)
_CANNOT_EXCHANGE: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
)
_CANNOT_CLONE: Final = frozenset({*_CANNOT_COPY, errno.ENOTTY, errno.EISDIR, errno.ETXTBSY})
_CLONE_RANGE: Final = 0x4020940D
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_SYNC_FILE_RANGE_WRITE: Final = 0x02
_COLLAPSE_RANGE: Final = 0x08
_INSERT_RANGE: Final = 0x20
_CANNOT_SYNC_FOLDER: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


def _announce(name: str, *arguments: object) -> None:
    if before is not None:
        before(name, arguments)


def open_fd(path: Path, flags: int, *, mode: int = 0o600) -> int:
    """A new descriptor, which no program that this one starts inherits."""
    _announce("open", path, flags)
    return os.open(path, flags, mode)


def close(fd: int) -> None:
    """Close; what an fsync did not report is not reported here either."""
    try:
        os.close(fd)
    except OSError:
        pass


def stat(target: Path | int) -> os.stat_result:
    _announce("stat", target)
    return os.stat(target)


def lstat(path: Path) -> os.stat_result | None:
    """The entry itself, links not followed; None where there is no such entry."""
    _announce("lstat", path)
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def statvfs(folder: Path) -> os.statvfs_result:
    _announce("statvfs", folder)
    return os.statvfs(folder)


def mkdir(path: Path, *, mode: int = 0o700) -> None:
    _announce("mkdir", path)
    os.mkdir(path, mode)


def pread(fd: int, nbytes: int, *, offset: int) -> bytes:
    """Exactly `nbytes` from `offset`; StorageError CKM753 where the file ends before."""
    parts: list[bytes] = []
    missing = nbytes
    while missing:
        part = _pread_some(fd, missing, offset + nbytes - missing)
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _pread_some(fd: int, nbytes: int, offset: int) -> bytes:
    _announce("pread", fd, nbytes, offset)
    part = os.pread(fd, min(nbytes, _PIECE), offset)
    if not part:
        raise _ends(nbytes, offset)
    return part


def pread_into(fd: int, buffer: memoryview, *, offset: int) -> None:
    """Fill a buffer from `offset`, which costs no new memory; StorageError as for `pread`."""
    done = 0
    while done < len(buffer):
        _announce("pread", fd, len(buffer) - done, offset + done)
        part = os.preadv(fd, [buffer[done:]], offset + done)
        if not part:
            raise _ends(len(buffer) - done, offset + done)
        done += part


def _ends(nbytes: int, offset: int) -> StorageError:
    return StorageError(
        "CKM753",
        "the file became shorter while it was read",
        why=f"{nbytes} more bytes were expected at offset {offset}, and the file ends there",
        fix="Run again when nothing else writes to the file.",
    )


def pwrite(fd: int, data: bytes | bytearray | memoryview, *, offset: int) -> None:
    """All of `data` at `offset`."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        _announce("pwrite", fd, len(view) - done, offset + done)
        written = os.pwrite(fd, view[done : done + _PIECE], offset + done)
        if written == 0:
            raise OSError(errno.EIO, "the file system accepted no bytes")
        done += written


def copy_range(
    source_fd: int, target_fd: int, *, source_offset: int, target_offset: int, nbytes: int
) -> None:
    """Copy bytes between two files inside the kernel, sharing blocks where it can.

    Falls back to reading and writing where the kernel refuses the pair of files. StorageError
    CKM753 where the source ends before `nbytes`.
    """
    done = 0
    while done < nbytes:
        moved = _copy_some(
            source_fd, target_fd, source_offset + done, target_offset + done, nbytes - done
        )
        if moved == 0:
            # Some file systems answer 0 before the end of a file: only a read knows the truth.
            moved = _pump(
                source_fd, target_fd, source_offset + done, target_offset + done, nbytes - done
            )
        done += moved


def _copy_some(
    source_fd: int, target_fd: int, source_offset: int, target_offset: int, nbytes: int
) -> int:
    """Bytes that the kernel copied; 0 where it cannot copy between these files."""
    if not hasattr(os, "copy_file_range"):
        return 0
    _announce("copy_file_range", source_fd, target_fd, source_offset, target_offset, nbytes)
    try:
        return os.copy_file_range(
            source_fd, target_fd, min(nbytes, _PIECE), source_offset, target_offset
        )
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
        return 0


def _pump(
    source_fd: int, target_fd: int, source_offset: int, target_offset: int, nbytes: int
) -> int:
    """Copy up to one piece through memory; how many bytes it was."""
    done, end = 0, min(nbytes, _PIECE)
    while done < end:
        data = _pread_some(source_fd, min(_BUFFER, end - done), source_offset + done)
        pwrite(target_fd, data, offset=target_offset + done)
        done += len(data)
    return done


def share_range(
    source_fd: int, target_fd: int, *, source_offset: int, target_offset: int, nbytes: int
) -> bool:
    """Let two files share whole blocks; False where the file system or the pair of files cannot,
    and then nothing has changed."""
    _announce("ficlonerange", source_fd, target_fd, source_offset, target_offset, nbytes)
    question = struct.pack("=qQQQ", source_fd, source_offset, nbytes, target_offset)
    try:
        fcntl.ioctl(target_fd, _CLONE_RANGE, question)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def preallocate(fd: int, nbytes: int) -> None:
    """Give the file its final size, with disk blocks behind it where the file system can."""
    _announce("posix_fallocate", fd, nbytes)
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _CANNOT_ALLOCATE:
            raise
        _announce("ftruncate", fd, nbytes)
        os.ftruncate(fd, nbytes)


def insert_range(fd: int, nbytes: int, *, offset: int) -> None:
    """Move everything from `offset` on back by `nbytes`, without copying it; both are multiples of
    the file system's block. A power cut may leave the gap at a later place than was asked for.
    OSError where the file system cannot, and then nothing has changed."""
    _announce("insert_range", fd, nbytes, offset)
    _fallocate(fd, _INSERT_RANGE, offset, nbytes)


def collapse_range(fd: int, nbytes: int, *, offset: int) -> None:
    """Take `nbytes` out of a file at `offset`: the inverse of `insert_range`."""
    _announce("collapse_range", fd, nbytes, offset)
    _fallocate(fd, _COLLAPSE_RANGE, offset, nbytes)


def _fallocate(fd: int, mode: int, offset: int, nbytes: int) -> None:
    import ctypes  # slow to import, and Python's os has no modes

    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(nbytes)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def read_ahead(fd: int, nbytes: int, *, offset: int) -> None:
    """Let the kernel begin to read these bytes into memory; a hint, and nothing fails with it."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        with suppress(OSError):
            advise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)


def start_writeback(fd: int, nbytes: int, *, offset: int) -> None:
    """Let the kernel begin to send these bytes to the disk; a hint, and nothing fails with it."""
    import ctypes  # slow to import, and needed for large files only

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux; see its page in section 2
    if call is not None:
        call(fd, ctypes.c_int64(offset), ctypes.c_int64(nbytes), _SYNC_FILE_RANGE_WRITE)


def hole(fd: int, *, start: int = 0) -> tuple[int, int]:
    """The first hole from `start` on: its begin and its end. A file without one has its hole behind
    the last byte: both are the size."""
    size = os.fstat(fd).st_size
    if start >= size:
        return size, size
    begin = os.lseek(fd, start, os.SEEK_HOLE)
    try:
        return begin, os.lseek(fd, begin, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return begin, size


def truncate(fd: int, nbytes: int) -> None:
    _announce("ftruncate", fd, nbytes)
    os.ftruncate(fd, nbytes)


def utime(fd: int, mtime_ns: int) -> None:
    """Set when a file was changed last; when it was read last stays."""
    _announce("utime", fd, mtime_ns)
    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, mtime_ns))


def fsync(fd: int) -> None:
    """Force a file to stable storage. Not to be tried again after an error: the kernel may have
    dropped the bytes that it could not write and would then report success."""
    _announce("fsync", fd)
    os.fsync(fd)


def fsync_folder(folder: Path) -> None:
    """Force the entries of a folder to stable storage, where the file system offers it."""
    fd = open_fd(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDER:
            raise
    finally:
        close(fd)


def chmod(fd: int, mode: int) -> None:
    _announce("fchmod", fd, mode)
    os.fchmod(fd, mode)


def chown(fd: int, uid: int, gid: int) -> None:
    _announce("fchown", fd, uid, gid)
    os.fchown(fd, uid, gid)


def link(source: Path, target: Path) -> None:
    """A second name for a file; FileExistsError where the name is taken."""
    _announce("link", source, target)
    os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    _announce("unlink", path)
    os.unlink(path)


def rename(source: Path, target: Path) -> None:
    """Give a file a name, atomically replacing what had it."""
    _announce("rename", source, target)
    os.rename(source, target)


def exchange(one: Path, other: Path) -> bool:
    """Give two files or folders each other's name in one step; False where the file system or the
    kernel cannot, and then nothing has changed."""
    try:
        _announce("renameat2", one, other)
        _exchange(os.fsencode(one), os.fsencode(other))
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        return False
    return True


def _exchange(one: bytes, other: bytes) -> None:
    import ctypes  # slow to import, and needed for folders only

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, one, _AT_FDCWD, other, ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(other))


def rmdir(path: Path) -> None:
    _announce("rmdir", path)
    os.rmdir(path)


def rename_new(source: Path, target: Path) -> None:
    """Give a file a name that nothing has; FileExistsError, and no change, where something does.

    A hard link does it atomically. Where the file system has none, a look before the rename has to
    do, and a file that appears between the two would be replaced.
    """
    try:
        link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        if lstat(target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        rename(source, target)
        return
    try:
        unlink(source)
    except OSError:
        pass  # The new name stands, and that is what was asked for.


def lock(fd: int) -> bool:
    """Take the exclusive lock of an open file without waiting; False where another has it."""
    _announce("flock", fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Release a lock, also where a forked child still has the descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:
        pass  # Closing releases it too.
