"""Torch files before 1.6, or without `_use_new_zipfile_serialization`: pickles, then data.

    magic number, protocol version, a dict about the machine, the object, the list of storage keys
    for each key: the number of elements (8 bytes), then the elements

Elements are little-endian whatever the machine was: torch swaps when it writes. A file may have
come from Python 2. The tar archives of torch 0.1 are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import FileIdentity, Record, Stored
from ckmigrate.formats.pickle_tree import Truncated, load_prefix
from ckmigrate.formats.read_at import read_at
from ckmigrate.formats.torch_storages import StorageTable
from ckmigrate.formats.torch_tag import take_tag
from ckmigrate.formats.tree import Storage

__all__ = ["is_torch_legacy", "read"]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES: Final = _MAGIC.to_bytes(10, "little")
_PROTOCOL: Final = 1001
_FIRST_READ: Final = 1 << 20
_LARGEST_PICKLE: Final = 1 << 29


def is_torch_legacy(head: bytes) -> bool:
    """Whether a file that begins with `head` (512 bytes) is in this format, or the tar before."""
    return (head[:1] == b"\x80" and _MAGIC_BYTES in head[:32]) or _is_tar(head)


def read(path: Path, fd: int, stat: os.stat_result, carry: Sequence[str] = ()) -> Stored:
    """The checkpoint in the open file `fd`, which stays open; no tensor byte is read.

    Raises StorageError: CKM707 unreadable, CKM710 to CKM713 by the pickle, CKM716 a tag that is
    none, CKM717 for a file of another kind, or whose storages are not where they should be.
    """
    where = str(path)
    head = read_at(fd, 0, min(512, stat.st_size), where=where)
    if not is_torch_legacy(head) or _is_tar(head):
        raise _wrong_kind(_is_tar(head), where)
    tree, table, keys, about, end = _pickles(fd, stat.st_size, carry, where)
    records = _records(fd, stat.st_size, table, keys, end, where)
    tree, tag = take_tag(tree, None, where=where)
    details = {"container": "legacy"}
    if about.get("little_endian") is False:
        details["written on"] = "a big-endian machine"
    return Stored(path, "torch", FileIdentity.of(stat), tree, records, tag=tag, details=details)


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _wrong_kind(is_tar: bool, where: str) -> StorageError:
    what = "the file is not of torch's format before 1.6"
    if is_tar:
        what = "the file is a tar archive, as torch 0.1 wrote them; that format is not supported"
    fix = "Load it with an old torch, for example 1.13, and save it again."
    return StorageError("CKM717", what, where=where, fix=fix)


_Pickles = tuple[object, StorageTable, list[str], Mapping[object, object], int]


def _pickles(fd: int, size: int, carry: Sequence[str], where: str) -> _Pickles:
    """The pickles at the start of the file; how long they are shows only while they are read."""
    length = min(_FIRST_READ, size)
    while True:
        data = read_at(fd, 0, length, where=where)
        try:
            return _parse(data, carry, where)
        except Truncated:
            if length == min(size, _LARGEST_PICKLE):
                raise
            length = min(4 * length, size, _LARGEST_PICKLE)


def _parse(data: bytes, carry: Sequence[str], where: str) -> _Pickles:
    table = StorageTable()
    none = StorageTable()

    def plain(start: int) -> tuple[object, int]:
        return load_prefix(data, start, persistent=none.load_legacy, source=where)

    magic, end = plain(0)
    protocol, end = plain(end)
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise _wrong_kind(False, where)
    about, end = plain(end)
    tree, end = load_prefix(data, end, persistent=table.load_legacy, carry=carry, source=where)
    keys, end = plain(end)
    if not isinstance(keys, list) or not isinstance(about, dict):
        raise _misplaced("the list of storages is no list", where)
    texts = [key for key in keys if isinstance(key, str)]
    if sorted(texts) != sorted(table.storages) or len(texts) != len(keys):
        raise _misplaced("the list of storages is not that of the tensors", where)
    return tree, table, texts, about, end


def _records(
    fd: int, size: int, table: StorageTable, keys: Sequence[str], begin: int, where: str
) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for key in keys:
        storage = table.storages[key]
        if begin + 8 + storage.nbytes > size:
            raise _misplaced(f"storage {key!r} reaches beyond the end of the file", where)
        numel = int.from_bytes(read_at(fd, begin, 8, where=where), "little")
        if numel != _numel(storage):
            what = f"storage {key!r} has {numel} elements where {_numel(storage)} are expected"
            raise _misplaced(what, where)
        records[key] = Record(begin + 8, storage.nbytes)
        begin += 8 + storage.nbytes
    if begin != size:
        raise _misplaced(f"{size - begin} bytes follow the last storage", where)
    return records


def _numel(storage: Storage) -> int:
    return storage.nbytes * 8 // storage.dtype.bits


def _misplaced(what: str, where: str) -> StorageError:
    fix = "Download or copy the file again; if it stays so, save it again with torch.save."
    return StorageError("CKM717", what, where=where, fix=fix)
