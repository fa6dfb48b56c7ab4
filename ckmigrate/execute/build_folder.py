"""The files of a new folder, each forced to stable storage before the folder can take its name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import give_mode, write_image
from ckmigrate.execute.folder_image import FolderImage
from ckmigrate.execute.new_files import carry, created, make_folders
from ckmigrate.execute.staging import Staging

__all__ = ["build_folder"]


def build_folder(stage: Staging, image: FolderImage, old: Path | None, *, links: bool) -> None:
    """Everything that the image describes, forced to stable storage; permissions are those of
    the folder that the file `old` is in. With `links`, what comes along is linked if possible."""
    folders = {stage.path}
    carried = image.carried or {}
    for name in (*carried, *(f"{folder}/" for folder in image.empty)):
        folders |= make_folders(stage.path, name)
    for name, file in image.files.items():
        with created(stage.path / name) as fd:
            write_image(fd, file.image, file.fill)
            give_mode(fd, _permissions(name, old))
            syscalls.fsync(fd)
    for name, path in carried.items():
        carry(path, stage.path / name, link=links)
    for folder in sorted(folders, reverse=True):
        syscalls.fsync_folder(folder)


def _permissions(name: str, old: Path | None) -> os.stat_result | None:
    """What the file of this name has in the old folder, or else its first shard."""
    for path in (old.with_name(name), old) if old else ():
        with suppress(FileNotFoundError):
            return syscalls.stat(path)
    return None
