"""Files and folders that come into being in a folder of ours, none over what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import Final

from ckmigrate.execute import syscalls
from ckmigrate.execute.lock import real_path

__all__ = ["carry", "created", "make_folders", "write_like"]

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def make_folders(root: Path, name: str) -> set[Path]:
    """The folders below `root` that the file `name` lies in, made where they are not there."""
    made: set[Path] = set()
    folder = root
    for part in name.split("/")[:-1]:
        folder /= part
        made.add(folder)
        if syscalls.lstat(folder) is None:
            syscalls.mkdir(folder, mode=0o777)
    return made


@contextmanager
def created(path: Path) -> Iterator[int]:
    """A new file, open; FileExistsError where something has the name."""
    fd = syscalls.open_fd(path, _CREATE)
    try:
        yield fd
    finally:
        syscalls.close(fd)


def write_like(path: Path, raw: bytes, like: Path) -> None:
    """A new file of these bytes, with the permissions of another one, on stable storage."""
    with created(path) as fd:
        syscalls.pwrite(fd, raw, offset=0)
        syscalls.chmod(fd, S_IMODE(syscalls.stat(like).st_mode))
        syscalls.fsync(fd)


def carry(source: Path, target: Path, *, link: bool) -> None:
    """A copy of a file, which shares its blocks where the file system can do that, or a link."""
    path = real_path(source)
    fd = syscalls.open_fd(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = syscalls.stat(fd)
        if link and _linked(path, target):
            syscalls.fsync(fd)
            return
        with created(target) as copy:
            syscalls.copy_range(fd, copy, source_offset=0, target_offset=0, nbytes=found.st_size)
            syscalls.chmod(copy, S_IMODE(found.st_mode) & 0o777)
            syscalls.fsync(copy)
    finally:
        syscalls.close(fd)


def _linked(path: Path, target: Path) -> bool:
    with suppress(OSError):
        syscalls.link(path, target)
        return True
    return False
