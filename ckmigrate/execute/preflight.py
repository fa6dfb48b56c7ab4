"""Where a checkpoint goes, and whether it can go there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.failures import explained
from ckmigrate.execute.lock import real_path

__all__ = ["Destination", "backup_path", "preflight"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the new checkpoint goes.

    path       its name; a symbolic link stands for the file that it leads to
    in_place   it is the source
    folder     a folder is written; its name may be taken by an empty folder and by nothing else
    overwrite  an existing file that is not the source may be replaced
    backup     the name that the old file keeps as a hard link; None for no backup. Where another
               file has the name, "-2", "-3" … is appended.
    """

    path: Path
    in_place: bool = False
    folder: bool = False
    overwrite: bool = False
    backup: Path | None = None


def backup_path(path: Path, revision: str) -> Path:
    """`NAME.bak-<revision>` beside the file that `path` stands for."""
    target = real_path(path)
    return target.with_name(f"{target.name}.bak-{revision}")


def preflight(
    destination: Destination, nbytes: int, *, source: Path | None = None
) -> os.stat_result | None:
    """What the target is now, None where nothing has its name, once nothing speaks against
    writing `nbytes` there.

    Raises StorageError CKM751 (exists), CKM752 (no space), CKM755 (folder missing, not writable).
    """
    with explained(destination.path):
        target = real_path(destination.path)
        _check_folder(target.parent)
        old = syscalls.lstat(target)
        _check_free_name(destination, old, source)
        _check_space(target.parent, nbytes)
        return old


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        import shlex

        raise StorageError(
            "CKM755",
            f"there is no folder {folder}",
            why="the new checkpoint would be written into it",
            fix=f"Make it (mkdir -p {shlex.quote(str(folder))}) or choose another place.",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            "CKM755",
            f"the folder {folder} is not writable",
            why="the new checkpoint is written beside its final name and then renamed",
            fix="Ask for write permission on the folder, or write elsewhere with -o.",
        )


def _check_free_name(
    destination: Destination, old: os.stat_result | None, source: Path | None
) -> None:
    """CKM751 where something has the output's name that may not be replaced."""
    is_file = old is not None and S_ISREG(old.st_mode)
    if old is None or (destination.in_place and not (destination.folder and is_file)):
        return
    if destination.in_place:
        why, fix = "it is a file, and the result is a folder", "Write a new folder with -o."
    elif destination.folder:
        if S_ISDIR(old.st_mode) and not os.listdir(destination.path):
            return
        why, fix = (
            "a folder is written whole, under a name that nothing has, or in place of an empty one",
            "Choose another name.",
        )
    elif not S_ISREG(old.st_mode):
        why, fix = "it is not a regular file", "Choose another name."
    elif source is not None and real_path(source) == real_path(destination.path):
        why, fix = "it is the source itself", "Choose another name, or upgrade with --in-place."
    elif not destination.overwrite:
        why, fix = (
            "an existing file is never replaced unasked",
            ("Choose another name, or allow it with --overwrite."),
        )
    else:
        return
    raise StorageError(
        "CKM751",
        f"output exists: {destination.path.name}",
        where=str(destination.path),
        why=why,
        fix=fix,
    )


def _check_space(folder: Path, nbytes: int) -> None:
    """CKM752 where the file cannot fit; file systems that do not know their size are believed."""
    found = syscalls.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and free < nbytes:
        raise StorageError(
            "CKM752",
            f"not enough space in {folder}: {nbytes} bytes are needed, {free} are free",
            why="the new checkpoint is written completely before the old one gives up its name",
            fix=f"Free {nbytes - free} bytes there, or write elsewhere with -o.",
        )
