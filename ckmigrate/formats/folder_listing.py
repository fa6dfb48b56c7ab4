"""Everything in the folder of a checkpoint, by relative path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import FileIdentity

__all__ = ["Listing", "list_folder"]

_MOST_FILES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Listing:
    """Files with what they were, folders without files, and what is neither file nor folder."""

    files: Mapping[str, FileIdentity]
    empty: tuple[str, ...]
    odd: tuple[str, ...]


def list_folder(root: Path) -> Listing:
    """What is in a folder; links to files count as files. StorageError CKM769 for too much."""
    files: dict[str, FileIdentity] = {}
    empty: list[str] = []
    odd: list[str] = []
    for base, folders, names in os.walk(root):
        folders.sort()
        relative = os.path.relpath(base, root)
        inside = "" if relative == "." else f"{relative}/"
        odd += [inside + name for name in folders if os.path.islink(os.path.join(base, name))]
        if inside and not folders and not names:
            empty.append(relative)
        for name in sorted(names):
            identity = _identity(os.path.join(base, name))
            if identity is None:
                odd.append(inside + name)
            else:
                files[inside + name] = identity
        if len(files) > _MOST_FILES:
            raise StorageError(
                "CKM769",
                f"{root.name or root} holds more than {_MOST_FILES} files",
                where=str(root),
                why="All files of the folder belong to the checkpoint and are carried along.",
                fix="Move the checkpoint into a folder of its own.",
            )
    return Listing(files, tuple(empty), tuple(odd))


def _identity(path: str) -> FileIdentity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileIdentity.of(found) if S_ISREG(found.st_mode) else None
