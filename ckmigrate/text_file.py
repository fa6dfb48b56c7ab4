"""Replacing a text file of a project: it holds the whole old text or the whole new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls

__all__ = ["replace_text"]


def replace_text(path: Path, text: str) -> bool:
    """Write a text where the file holds another; whether it did. A link stays a link.

    StorageError CKM792 where that fails; the file then is as it was.
    """
    path = Path(os.path.realpath(path))
    try:
        if _holds(path, text):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text.encode())
    except OSError as error:
        raise StorageError(
            "CKM792",
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path),
            fix="Check the folder, its permissions and the space on its disk.",
        ) from error
    return True


def _holds(path: Path, text: str) -> bool:
    """Whether the text is there already; git may have given its lines other ends."""
    try:
        return path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
    except FileNotFoundError:
        return False


def _remove_stale(path: Path) -> None:
    """What runs that were killed left behind."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        owner = temporary.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            temporary.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    found = syscalls.lstat(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = syscalls.open_fd(temporary, flags, mode=0o666)
    try:
        try:
            syscalls.pwrite(fd, data, offset=0)
            if found is not None:
                syscalls.chmod(fd, stat.S_IMODE(found.st_mode) & 0o777)
            syscalls.fsync(fd)
        finally:
            syscalls.close(fd)
        syscalls.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    syscalls.fsync_folder(path.parent)
