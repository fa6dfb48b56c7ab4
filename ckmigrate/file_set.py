"""Changing several text files of a project at once: all of them, or none."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.signals import signals_held

__all__ = ["replace_files"]


def replace_files(files: Mapping[Path, bytes | None]) -> None:
    """Give every file its new content, in order; None removes it.

    Every new content, and every old one, is on the disk under another name before the first file is
    touched. An error undoes what was done and is a StorageError CKM792; a process that is killed in
    between leaves files that are each whole.
    """
    real = {Path(os.path.realpath(path)): data for path, data in files.items()}
    new: dict[Path, Path] = {}
    old: dict[Path, Path] = {}
    try:
        for path, data in real.items():
            if data is not None:
                new[path] = _staged(path, data, "new")
            if path.exists():
                old[path] = _staged(path, path.read_bytes(), "old")
        with signals_held():
            _exchange(real, new, old)
    except OSError as error:
        raise _failure(error) from error
    finally:
        for temporary in (*new.values(), *old.values()):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _staged(path: Path, data: bytes, kind: str) -> Path:
    """The content in a new file beside the old one, with its permissions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{kind}.tmp")
    temporary.unlink(missing_ok=True)
    found = syscalls.lstat(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = syscalls.open_fd(temporary, flags, mode=0o666)
    try:
        syscalls.pwrite(fd, data, offset=0)
        if found is not None:
            syscalls.chmod(fd, stat.S_IMODE(found.st_mode) & 0o777)
        syscalls.fsync(fd)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        syscalls.close(fd)
    return temporary


def _exchange(
    files: Mapping[Path, bytes | None], new: Mapping[Path, Path], old: Mapping[Path, Path]
) -> None:
    """Rename and remove; on an error, put back what was there."""
    done: list[Path] = []
    try:
        for path in files:
            done.append(path)
            if path in new:
                syscalls.rename(new[path], path)
            elif path in old:
                syscalls.unlink(path)
        for folder in dict.fromkeys(path.parent for path in files):
            syscalls.fsync_folder(folder)
    except BaseException:
        for path in reversed(done):
            with suppress(OSError):
                _put_back(path, old.get(path))
        raise


def _put_back(path: Path, old: Path | None) -> None:
    if old is not None:
        os.replace(old, path)
    else:
        path.unlink(missing_ok=True)


def _failure(error: OSError) -> StorageError:
    name = Path(error.filename).name if isinstance(error.filename, str | Path) else "a file"
    return StorageError(
        "CKM792",
        f"cannot write {name}: {error.strerror or error}",
        where=None if error.filename is None else str(error.filename),
        why="Every file of the project is as it was.",
        fix="Check the folder, its permissions and the space on its disk.",
    )
