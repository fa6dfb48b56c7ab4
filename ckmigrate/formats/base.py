"""The contract of a format: a reader gives a `Stored`, a writer gives a `FileImage` for each file.

Readers open files, never follow what a file says to open, and never execute anything. Writers are
pure: they say which bytes stand where; `ckmigrate.execute` puts them there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from ckmigrate.formats.dcp_metadata import DcpMetadata, Place
    from ckmigrate.formats.tree import Tensor

__all__ = [
    "BLOCK",
    "Box",
    "Companions",
    "Container",
    "FileIdentity",
    "FileImage",
    "Folder",
    "Format",
    "Record",
    "Slot",
    "Stored",
    "StoredFile",
]

Format = Literal["safetensors", "torch", "sharded", "dcp"]
Container = Literal["safetensors", "torch"]

BLOCK: Final = 4096
"""Bytes of a block of the usual file systems: what begins at the same place within one can be
shared."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What must not change while a file is being migrated."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileIdentity:
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One of the files that a checkpoint consists of, and what it was when it was read."""

    path: Path
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor that is stored by itself, with a Storage and a Record of its own: where
    it begins in each dimension, and its values."""

    offsets: tuple[int, ...]
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Record:
    """Where the bytes of one Storage lie: absolute file offset, size, CRC-32 if the file has one,
    whether multi-byte elements are big-endian, and in which of the checkpoint's files.

    A Storage that was saved in several parts has no place of its own:

    boxes      its parts, in row-major order of where they begin; `file` is that of the first
    shape      what the offsets of the boxes count in
    scattered  whether the bytes of the boxes, one box after the other, are not yet the Storage's
    """

    offset: int
    nbytes: int
    crc: int | None = None
    big_endian: bool = False
    file: int = 0
    boxes: tuple[Box, ...] = ()
    shape: tuple[int, ...] = ()
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """What a checkpoint that is a folder has beside its tensors.

    container    what each shard is; of a DCP folder: what each tensor in its files is
    shards       names of the files that hold tensors; the first of `Stored.files`
    index        name of the index file, or ".metadata"; None where the folder is a single file of
                 weights
    totals       keys of the index's metadata that say sizes, which are worked out anew
    config       the text of config.json; None where there is none
    others       relative paths of all other files
    empty        relative paths of folders without files
    odd          relative paths of what is neither file nor folder, such as a dangling link
    """

    container: Container
    shards: tuple[str, ...]
    index: str | None = None
    totals: tuple[str, ...] = ("total_size",)
    config: str | None = None
    others: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Companions:
    """Files of training state beside the weights of a folder.

    trees    of those that were read, by relative name, in the order of the folder
    records  of the storages of all trees
    faults   why the others could not be read, by relative name
    """

    trees: Mapping[str, object] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint, read but for its tensor bytes.

    path      the file, or the folder
    identity  of the file; of a folder: of the file that was read first
    tree      inert tree; of safetensors and of a folder: a flat dict name → Tensor
    metadata  the string pairs of a safetensors header, without ckmigrate's own; {} for torch; of a
              folder also "config" and "index", as JSON values
    tag       the JSON text of ckmigrate's tag, or None
    tag_fault why there is no tag although parts of a folder have one
    records   bytes by Storage key
    details   remarks of the reader for `inspect`, such as {"container": "zip"} or "legacy"
    folder    of a checkpoint of several files: what else it consists of
    parts     of a folder: every file of it, the shards first, `Record.file` counts in these
    dcp       of a DCP folder: what its .metadata says
    chunks    of a DCP folder: the tensors that were read, by their place in its files
    beside    of a folder of shards: the files of training state in it; `records` has theirs too
    """

    path: Path
    format: Format
    identity: FileIdentity
    tree: object
    records: Mapping[str, Record]
    metadata: Mapping[str, object] = field(default_factory=dict)
    tag: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    folder: Folder | None = None
    parts: tuple[StoredFile, ...] = ()
    tag_fault: str | None = None
    dcp: DcpMetadata | None = None
    chunks: Mapping[Place, Tensor] = field(default_factory=dict)
    beside: Companions = field(default_factory=Companions)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file that must stay what it is while the checkpoint is migrated."""
        return self.parts or (StoredFile(self.path, self.identity),)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.identity.size for file in self.files)

    @property
    def is_flat(self) -> bool:
        """Whether the tree is the tensors by name and nothing else."""
        return self.format not in ("torch", "dcp")

    @property
    def state_tree(self) -> object:
        """Where paths of training state begin: the tree, or a dict of the trees of those files
        that are beside the weights."""
        return self.beside.trees if self.is_flat else self.tree


@dataclass(frozen=True, slots=True)
class Slot:
    """A byte range of the output file that one storage fills."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileImage:
    """A file to be written, as data.

    size    of the whole file
    chunks  (offset, bytes) known beforehand: headers, padding, the pickle
    slots   storage key → byte range; together with chunks and `finish` they cover the file
    finish  None, or a function from {storage key: CRC-32 of its bytes} to the last (offset, bytes)
            pairs; when it is given the executor computes the checksums while it writes
    """

    size: int
    chunks: tuple[tuple[int, bytes], ...]
    slots: Mapping[str, Slot]
    finish: Callable[[Mapping[str, int]], tuple[tuple[int, bytes], ...]] | None = None
