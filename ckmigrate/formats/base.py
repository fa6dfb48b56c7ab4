"""The contract of a format: a reader gives a `Stored`, a writer gives a `FileImage`.

Readers open files, never follow what a file says to open, and never execute anything. Writers are
pure: they say which bytes stand where; `ckmigrate.execute` puts them there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["FileIdentity", "FileImage", "Format", "Record", "Slot", "Stored"]

Format = Literal["safetensors", "torch"]


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
class Record:
    """Where the bytes of one Storage lie: absolute file offset, size, CRC-32 if the file has one,
    and whether multi-byte elements are big-endian."""

    offset: int
    nbytes: int
    crc: int | None = None
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint file, read but for its tensor bytes.

    tree      inert tree; of a safetensors file: a flat dict name → Tensor
    metadata  the string pairs of a safetensors header, without ckmigrate's own; {} for torch
    tag       the JSON text of ckmigrate's tag, or None
    records   bytes by Storage key
    details   remarks of the reader for `inspect`, such as {"container": "zip"} or "legacy"
    """

    path: Path
    format: Format
    identity: FileIdentity
    tree: object
    records: Mapping[str, Record]
    metadata: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)


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
