"""Replacing a text file of a project: it holds the whole old text or the whole new one."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls

__all__ = ["create_text", "is_running", "replace_text"]

_TEMPORARY: Final = re.compile(r"\..+\.([0-9]+)\.tmp")


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


def create_text(path: Path, text: str) -> None:
    """Write a new file: whole, or not at all.

    FileExistsError where something has its name, OSError where it cannot be written.
    """
    _remove_stale(path.parent)
    temporary = _written(path, text.encode(), None)
    try:
        syscalls.rename_new(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    syscalls.fsync_folder(path.parent)


def _holds(path: Path, text: str) -> bool:
    """Whether the text is there already; git may have given its lines other ends."""
    try:
        return path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
    except FileNotFoundError:
        return False


def _remove_stale(folder: Path) -> None:
    """What runs that were killed left behind."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not is_running(int(found[1])):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process of this number lives on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process > 0


def _replace(path: Path, data: bytes) -> None:
    _remove_stale(path.parent)
    temporary = _written(path, data, syscalls.lstat(path))
    try:
        syscalls.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    syscalls.fsync_folder(path.parent)


def _written(path: Path, data: bytes, like: os.stat_result | None) -> Path:
    """The bytes on the disk in a temporary file beside `path`, with the permissions of `like`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = syscalls.open_fd(temporary, flags, mode=0o666)
    try:
        syscalls.pwrite(fd, data, offset=0)
        if like is not None:
            syscalls.chmod(fd, stat.S_IMODE(like.st_mode) & 0o777)
        syscalls.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        syscalls.close(fd)
    return temporary
