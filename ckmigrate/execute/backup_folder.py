"""A second folder of the old version, for a folder that becomes the new one from within."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import give_mode
from ckmigrate.execute.files_in import files_in, folders_in
from ckmigrate.execute.new_files import carry, make_folders
from ckmigrate.execute.staged_folder import StagedFolder
from ckmigrate.execute.staging import free_name, remove_tree, staging

__all__ = ["backup_folder"]


@contextmanager
def backup_folder(staged: StagedFolder) -> Iterator[Path | None]:
    """A second folder of the old files: links to those that go, copies of those that stay;
    taken back where nothing was done."""
    if staged.destination.backup is None:
        yield None
        return
    backup = free_name(staged.destination.backup)
    with staging(staged.target) as copy:
        for name in files_in(staged.target):
            make_folders(copy.path, name)
            if name in (staged.image.carried or {}):
                carry(staged.target / name, copy.path / name, link=False)
            else:
                staged.link(staged.target / name, copy.path / name)
        for name in folders_in(staged.target):
            make_folders(copy.path, f"{name}/")
        give_mode(copy.fd, syscalls.stat(staged.target))
        syscalls.fsync_folder(copy.path)
        syscalls.rename(copy.path, backup)
    try:
        yield backup
    finally:
        if not staged.done:
            with suppress(OSError):
                remove_tree(backup)
