"""Give a new folder the name of the old one: they change places, in one step."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Committed, has_name
from ckmigrate.execute.files_in import files_in
from ckmigrate.execute.staged_folder import StagedFolder
from ckmigrate.execute.staging import free_name, remove_tree, swap_path

__all__ = ["exchange_folder"]


def exchange_folder(staged: StagedFolder) -> Committed | None:
    """Change places with the target, and keep the old folder where that is wanted; None where the
    file system cannot exchange folders, and then nothing has changed.

    Raises StorageError CKM753 where the target has a file that was not read, and CKM758 where the
    exchange was done and is not all.
    """
    _require_nothing_new(staged)
    wanted, path = staged.destination.backup, staged.stage.path
    if wanted is not None:
        path = swap_path(staged.stage, wanted)
        syscalls.rename(staged.stage.path, path)
    try:
        exchanged = syscalls.exchange(path, staged.target)
    except OSError:
        if not (exchanged := has_name(staged.stage.fd, staged.target)):
            _back(staged, path)
            raise
    if not exchanged:
        _back(staged, path)
        return None
    committed = Committed(staged.destination.path, wanted)
    staged.done.append(committed)
    if wanted is not None:
        committed = _keep_old(staged, path, wanted)
        staged.done[:] = [committed]
    staged.force(staged.target.parent)
    return committed


def _require_nothing_new(staged: StagedFolder) -> None:
    """CKM753 where the old folder has a file that the new one knows nothing of."""
    root = staged.sources[0].path.parent
    known = {str(file.path.relative_to(root)) for file in staged.sources}
    for name in files_in(staged.target):
        if name not in known and (staged.target / name).is_file():
            raise StorageError(
                "CKM753",
                f"{name} appeared in {staged.target.name} while it was upgraded",
                where=str(staged.target / name),
                why="The new folder would be without it.",
                fix="Run again when nothing else writes to the folder. Nothing was changed.",
            )


def _back(staged: StagedFolder, path: Path) -> None:
    """To the name under which the end of the block removes it."""
    if path != staged.stage.path:
        with suppress(OSError):
            syscalls.rename(path, staged.stage.path)
    if path != staged.stage.path and os.path.lexists(path):
        with suppress(OSError):
            remove_tree(path)


def _keep_old(staged: StagedFolder, path: Path, wanted: Path) -> Committed:
    try:
        backup = free_name(wanted)
        syscalls.rename(path, backup)
    except OSError as error:
        raise StorageError(
            "CKM758",
            f"{staged.target.name} was written, but its old version has a temporary name",
            where=str(staged.target),
            why=f"it should be {wanted.name}, and is {path.name}: {error.strerror}",
            fix="Both are complete. Rename the old one, or run again: it gets its name then.",
        ) from error
    return Committed(staged.destination.path, backup)
