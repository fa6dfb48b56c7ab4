"""The folder that becomes the new checkpoint, and what a run that was killed left of one.

A staging folder lies beside its target under a name of ours and is locked while its run is alive.
Two of its forms hold more than unfinished work, and only a run for the same target settles them:

    *.swap     about to change places with the target. Its name has the inode of the new folder: if
               it is still that one, nothing happened; if not, the old version is here, and gets the
               name of its backup.
    .publish/  links to the old and the new shards of a target that could not change places: those
               that the target's index does not name are removed from it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.lock import already_running
from ckmigrate.execute.temporary import NAME, is_dead, key_of, names_in, new_name
from ckmigrate.formats.folder_names import METADATA

__all__ = [
    "JOURNAL",
    "Staging",
    "free_name",
    "remove_stale_folders",
    "remove_tree",
    "settle_journal",
    "staging",
    "swap_path",
]

JOURNAL: Final = ".publish"

_SWAP: Final = re.compile(rf"{NAME.pattern}-(?P<inode>\d+)-(?P<revision>[0-9A-Za-z_-]*)\.swap")
_NO_REVISION: Final = re.compile(r"[^0-9A-Za-z_-]")
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Staging:
    """An open staging folder, under the name that it had when it was made."""

    path: Path
    fd: int


@contextmanager
def staging(target: Path) -> Iterator[Staging]:
    """A new, empty, locked folder beside `target`, for its owner only.

    At the end of the block nothing has its temporary name: what changed places with it is removed
    like itself. Only where it is not certain that the change survives a power cut (CKM758) all
    stays, for the next run to settle.
    """
    path, fd = _create(target)
    tries = 2
    try:
        yield Staging(path, fd)
    except StorageError as error:
        tries = 0 if error.code == "CKM758" else tries
        raise
    finally:
        for _ in range(tries):
            with suppress(OSError):
                remove_tree(path)
                break
        syscalls.close(fd)


def _create(target: Path) -> tuple[Path, int]:
    """A new, locked folder. Between its making and its lock a run for a neighbour may take it for
    a dead one's and remove it; then another is made."""
    while True:
        path = target.with_name(new_name(target))
        syscalls.mkdir(path)
        fd, is_ours = -1, False
        try:
            fd = syscalls.open_fd(path, _OPEN)
            is_ours = _locked(fd) and os.path.samestat(os.fstat(fd), os.lstat(path))
        except FileNotFoundError:
            pass
        finally:
            if not is_ours:
                with suppress(OSError):
                    remove_tree(path)
                if fd >= 0:
                    syscalls.close(fd)
        if is_ours:
            return path, fd


def _locked(fd: int) -> bool:
    """Without locks the name tells who is alive."""
    try:
        return syscalls.lock(fd)
    except OSError:
        return True


def swap_path(stage: Staging, backup: Path) -> Path:
    """The name under which a staging folder changes places with a target that is to be kept as
    `backup`, which is NAME.bak-REVISION."""
    inode = os.fstat(stage.fd).st_ino
    revision = _NO_REVISION.sub("", backup.name.rpartition(".bak-")[2])
    return stage.path.with_name(f"{stage.path.name}-{inode}-{revision}.swap")


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, or nothing where there is none; links are removed,
    what they lead to stays."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        inner = path / entry.name
        if entry.is_dir(follow_symlinks=False):
            remove_tree(inner)
        else:
            syscalls.unlink(inner)
    syscalls.rmdir(path)


def free_name(wanted: Path) -> Path:
    """`wanted`, or the first of "-2", "-3" … that nothing has."""
    path, number = wanted, 1
    while syscalls.lstat(path) is not None:
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path


# --- what dead runs left ----------------------------------------------------------------------


def remove_stale_folders(target: Path) -> None:
    """Remove the staging folders of dead runs beside `target`, and settle those for `target`.

    Raises StorageError CKM754 where a living run is writing this very target.
    """
    for name in sorted(names_in(target.parent)):
        match = NAME.fullmatch(name) or _SWAP.fullmatch(name)
        if match is None or _settle_if_dead(target, target.parent / name, match):
            continue
        if match["target"] == key_of(target):
            raise already_running(target, match["pid"])


def _settle_if_dead(target: Path, path: Path, match: re.Match[str]) -> bool:
    """False where the run that made this folder lives; what cannot be opened is left alone."""
    try:
        fd = syscalls.open_fd(path, _OPEN)
    except OSError:
        return True
    try:
        if not is_dead(fd, match):
            return False
        is_ours = match["target"] == key_of(target)
        if match.re is _SWAP:
            _settle_swap(target, path, match, fd, is_ours=is_ours)
        elif is_ours or not (path / JOURNAL).is_dir():
            settle_journal(target, path / JOURNAL)
            remove_tree(path)
    except OSError:
        pass  # Not ours to remove, or gone already: it harms nobody.
    finally:
        syscalls.close(fd)
    return True


def _settle_swap(target: Path, path: Path, match: re.Match[str], fd: int, *, is_ours: bool) -> None:
    if os.fstat(fd).st_ino == int(match["inode"]):
        remove_tree(path)
    elif is_ours:
        backup = target.with_name(f"{target.name}.bak-{match['revision']}")
        syscalls.rename(path, free_name(backup))
        syscalls.fsync_folder(target.parent)


def settle_journal(target: Path, journal: Path) -> None:
    """Remove from the target what the journal has a link to and no index names."""
    if not journal.is_dir():
        return
    used = _named_by_indexes(target)
    for name in names_in(journal):
        here = syscalls.lstat(target / name)
        if name not in used and here and os.path.samestat(here, os.lstat(journal / name)):
            syscalls.unlink(target / name)
    syscalls.fsync_folder(target)


def _named_by_indexes(folder: Path) -> set[str]:
    """Every file that an index in the folder names; OSError where one cannot be read."""
    used: set[str] = set()
    for name in names_in(folder):
        if name.endswith(".index.json"):
            try:
                used.update(json.loads((folder / name).read_bytes())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise OSError(f"{name} cannot be read: {error}") from error
        elif name == METADATA:
            used.update(_named_by_metadata(folder / name))
    return used


def _named_by_metadata(path: Path) -> tuple[str, ...]:
    from ckmigrate.formats.dcp_metadata import file_names

    try:
        return file_names(path.read_bytes())
    except StorageError as error:
        raise OSError(f"{path.name} cannot be read: {error}") from error
