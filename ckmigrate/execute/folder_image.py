"""A folder to be written, as data: what is new in it, and what comes along."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ckmigrate.execute.commit import Fill
from ckmigrate.formats.base import FileImage

__all__ = ["FolderImage", "NewFile"]


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written; `fill` writes the slots of the image into the open file."""

    image: FileImage
    fill: Fill


@dataclass(frozen=True, slots=True)
class FolderImage:
    """A folder to be written, as data.

    files    what is written anew, by relative name
    shards   those of them that hold tensors
    index    the one that names the shards, if there is one
    carried  files that come along, by relative name
    empty    folders without files
    replaced files of the old folder that the new one does without; None: what its index names. Then
             the shards have names that the old folder does not have
    interim  what files may say, by name, while the old index still counts and when the new one does
    """

    files: Mapping[str, NewFile]
    shards: tuple[str, ...]
    index: str | None = None
    carried: Mapping[str, Path] | None = None
    empty: tuple[str, ...] = ()
    replaced: tuple[str, ...] | None = None
    interim: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that are written anew."""
        return sum(file.image.size for file in self.files.values())

    @property
    def carried_size(self) -> int:
        """Bytes of the files that come along, as they are on the disk now."""
        return sum(os.path.getsize(path) for path in (self.carried or {}).values())

    @property
    def pivot(self) -> str:
        """The file that makes the others the checkpoint."""
        return self.index or self.shards[0]
