"""Torch's zip format (.pt, .pth, .ckpt, .bin since torch 1.6): a pickle, a record per storage.

    archive/data.pkl        the object; tensors name their storages by persistent ids
    archive/data/0, 1, …    the bytes of the storages
    archive/byteorder       "little" or "big"; torch before 2.1 had none, and meant little
    archive/version         of the format
    archive/ckmigrate.json  our tag, where the top level has no room for the key "ckmigrate"

Reading gives the inert tree and where the records lie; no tensor byte is read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import FileIdentity, FileImage, Record, Stored
from ckmigrate.formats.pickle_tree import dumps, loads
from ckmigrate.formats.read_at import Region, read_at
from ckmigrate.formats.torch_storages import StorageTable
from ckmigrate.formats.torch_tag import TAG_RECORD, take_tag, with_tag
from ckmigrate.formats.tree import Storage
from ckmigrate.formats.zip_archive import Archive, Entry, directory_lines, read_archive
from ckmigrate.formats.zip_image import ALIGNMENT, Member, zip_image

__all__ = ["Addition", "addition", "image", "is_torch_zip", "read", "read_part"]

_PICKLE: Final = "data.pkl"
_LARGEST_PICKLE: Final = 1 << 29
_LARGEST_NOTE: Final = 64
_LARGEST_TAG: Final = 1 << 20
_STAY: Final = ("version", ".data/version", "byteorder")
_VERSIONS: Final = range(1, 11)
_OWN: Final = frozenset(
    {
        _PICKLE,
        TAG_RECORD,
        "byteorder",
        "version",
        ".data/version",
        ".format_version",
        ".storage_alignment",
        ".data/serialization_id",
    }
)


def is_torch_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip archive; of torch, if it is meant for us."""
    return head.startswith(b"PK\x03\x04")


def read(path: Path, fd: int, stat: os.stat_result, carry: Sequence[str] = ()) -> Stored:
    """The checkpoint in the open file `fd`, which stays open.

    carry    names of project classes that may be in it, see `pickle_tree.loads`
    details  {"container": "zip"}, and what will not be in a file that is written from this: the
             names of "other records", the number of "unused storages"

    Raises StorageError: CKM707 unreadable, CKM710 to CKM713 by the pickle, CKM714 TorchScript,
    CKM715 a crooked or damaged archive, CKM716 a tag that is none.
    """
    where = str(path)
    archive, table, tree, records = _contents(fd, stat.st_size, "", where=where, carry=carry)
    tree, tag = take_tag(tree, _tag_record(fd, archive, where), where=where)
    return Stored(
        path=path,
        format="torch",
        identity=FileIdentity.of(stat),
        tree=tree,
        records=records,
        tag=tag,
        details=_details(archive, table, _storage_sizes(archive)),
    )


def read_part(
    region: Region, size: int, prefix: str, *, where: str, carry: Sequence[str] = ()
) -> tuple[object, dict[str, Record]]:
    """The tree and the records of an archive of `size` bytes inside a larger file, as `read` has
    them; offsets count from the beginning of that file, `prefix` is put before the keys."""
    _, _, tree, records = _contents(region, size, prefix, where=where, carry=carry)
    moved = {k: replace(r, offset=region.begin + r.offset) for k, r in records.items()}
    return tree, moved


def _contents(
    fd: int | Region, size: int, prefix: str, *, where: str, carry: Sequence[str]
) -> tuple[Archive, StorageTable, object, dict[str, Record]]:
    archive = read_archive(fd, size, where=where)
    _check_kind(archive, where)
    big_endian = _byte_order(fd, archive, where) == "big"
    sizes = _storage_sizes(archive)
    table = StorageTable(prefix)
    tree = loads(
        _record(fd, archive, _PICKLE, _LARGEST_PICKLE, where),
        persistent=lambda claim: table.load_record(claim, sizes),
        carry=carry,
        source=f"{where}, {_PICKLE}",
    )
    return archive, table, tree, _records(archive, table, big_endian)


def image(
    tree: object,
    *,
    tag: str | None,
    tag_as: Literal["key", "record"] = "key",
    archive_name: str = "archive",
    phases: Mapping[str, int] | None = None,
) -> FileImage:
    """The file that `torch.load` reads as `tree`; one slot per Storage, by `Storage.key`.

    The bytes for a slot are the storage's elements, little-endian.

    tag_as  "key": under "ckmigrate" in the top-level dict; "record": beside the pickle, where
            torch.load does not look
    phases  wanted file offset modulo 4096 of a storage's bytes, by key, for file systems that
            share equal blocks; what is no multiple of 64 is ignored

    Raises StorageError CKM716 where the key has no place, CKM718 for a tree that no file can hold.
    """
    keys: dict[str, str] = {}
    storages: dict[str, Storage] = {}

    def storage_key(storage: Storage) -> str:
        storages[storage.key] = storage
        return keys.setdefault(storage.key, str(len(keys)))

    named = with_tag(tree, tag) if tag is not None and tag_as == "key" else tree
    notes = {_PICKLE: dumps(named, storage_key=storage_key), "byteorder": b"little"}
    notes["version"] = b"3\n"
    if tag is not None and tag_as == "record":
        notes[TAG_RECORD] = tag.encode()
    members = [Member(f"{archive_name}/{name}", len(raw), raw) for name, raw in notes.items()]
    for key, storage in storages.items():
        name, phase = f"{archive_name}/data/{keys[key]}", _phase((phases or {}).get(key))
        members.append(Member(name, storage.nbytes, slot=key, phase=phase))
    return zip_image(members)


@dataclass(frozen=True, slots=True)
class Addition:
    """What stands behind the old end of an archive that is changed by adding to it.

    offset  the size of the old file
    data    the new records, the new directory and its end records
    used    the keys of all storages that the tree names
    """

    offset: int
    data: bytes
    used: tuple[str, ...]

    @property
    def size(self) -> int:
        """Of the file with the addition."""
        return self.offset + len(self.data)


def addition(
    fd: int,
    size: int,
    tree: object,
    *,
    tag: str | None,
    tag_as: Literal["key", "record"],
    records: Mapping[str, str],
    new: Mapping[str, bytes],
    where: str,
) -> Addition:
    """The bytes that make the open archive `fd` of `size` bytes the file of another tree.

    records  the record of each storage that is in the archive already, by `Storage.key`
    new      the little-endian bytes of those that are not

    Nothing old is overwritten: a new pickle and a new directory take the place of the old ones, so
    that cutting the addition off gives the old file back. Records that the tree does not need are
    not listed any more, and their bytes stay; so do those that promise the order of all records,
    which would not be true any more.

    Raises StorageError CKM715, CKM716 and CKM718 as `read` and `image` do.
    """
    top, lines = directory_lines(fd, size, where=where)
    names = _RecordNames({key: f"data/{name}" for key, name in records.items()}, set(lines))
    named = with_tag(tree, tag) if tag is not None and tag_as == "key" else tree
    notes = {_PICKLE: dumps(named, storage_key=names.key_of)}
    if tag is not None and tag_as == "record":
        notes[TAG_RECORD] = tag.encode()
    notes |= {names.used[key]: raw for key, raw in new.items() if key in names.used}
    old = (*_STAY, *(name for key, name in names.used.items() if key not in new))
    kept = [lines[name] for name in dict.fromkeys(old) if name in lines]
    members = [Member(f"{top}/{name}", len(raw), raw) for name, raw in notes.items()]
    made = zip_image(members, begin=size, kept=kept)
    assert made.finish is not None
    parts = sorted((*made.chunks, *made.finish({})))
    return Addition(size, b"".join(raw for _, raw in parts), tuple(names.used))


class _RecordNames:
    """The records of the storages that a tree names; new ones get numbers that are free."""

    def __init__(self, known: Mapping[str, str], taken: set[str]) -> None:
        self.used: dict[str, str] = {}
        self._known = known
        self._taken = {name.casefold() for name in taken}
        self._next = 0

    def key_of(self, storage: Storage) -> str:
        if storage.key not in self.used:
            self.used[storage.key] = self._known.get(storage.key) or self._fresh()
        return self.used[storage.key].removeprefix("data/")

    def _fresh(self) -> str:
        while f"data/{self._next}" in self._taken:
            self._next += 1
        name = f"data/{self._next}"
        self._taken.add(name)
        return name


def _phase(wanted: int | None) -> int | None:
    return wanted if wanted is not None and wanted % ALIGNMENT == 0 else None


# --- reading ----------------------------------------------------------------------------------


def _check_kind(archive: Archive, where: str) -> None:
    names = archive.entries
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise StorageError(
            "CKM714",
            "the file is a TorchScript archive: a program, not a checkpoint",
            where=where,
            fix="Export its weights first: torch.save(torch.jit.load(PATH).state_dict(), NEW).",
        )
    if _PICKLE not in names:
        raise _damaged(f"the zip archive has no {_PICKLE}", where, "torch.save writes one")


def _byte_order(fd: int | Region, archive: Archive, where: str) -> str:
    for name in ("version", ".data/version"):
        text = _note(fd, archive, name, where)
        if text is not None and not (text.isdecimal() and int(text) in _VERSIONS):
            why = f"version {text!r:.20} of the format is not known"
            raise _damaged("the file is from a newer torch", where, why)
    order = _note(fd, archive, "byteorder", where)
    if order not in (None, "little", "big"):
        raise _damaged(f"the byte order {order!r:.20} does not exist", where)
    return order or "little"


def _note(fd: int | Region, archive: Archive, name: str, where: str) -> str | None:
    """The text of a short record; None when there is none."""
    if name not in archive.entries:
        return None
    raw = _record(fd, archive, name, _LARGEST_NOTE, where)
    return raw.decode("ascii", "replace").strip()


def _record(fd: int | Region, archive: Archive, name: str, limit: int, where: str) -> bytes:
    """A record that is read whole, checked against its CRC-32."""
    entry = archive.entries[name]
    if entry.size > limit:
        why = f"it has {entry.size} bytes, more than {limit}"
        raise _damaged(f"record {name!r} is too large to be read", where, why)
    raw = read_at(fd, entry.offset, entry.size, where=where)
    if zlib.crc32(raw) != entry.crc:
        raise _damaged(f"record {name!r} is damaged", where, "its bytes do not fit its checksum")
    return raw


def _tag_record(fd: int | Region, archive: Archive, where: str) -> str | None:
    if TAG_RECORD not in archive.entries:
        return None
    try:
        return _record(fd, archive, TAG_RECORD, _LARGEST_TAG, where).decode("utf-8")
    except UnicodeDecodeError:
        what = f"record {TAG_RECORD!r} is not UTF-8"
        fix = "Stamp the file again with ckmigrate stamp."
        raise StorageError("CKM716", what, where=where, fix=fix) from None


def _storage_sizes(archive: Archive) -> dict[str, int]:
    return {
        name.removeprefix("data/"): entry.size
        for name, entry in archive.entries.items()
        if name.startswith("data/")
    }


def _records(archive: Archive, table: StorageTable, big_endian: bool) -> dict[str, Record]:
    entries = {node.key: archive.entries[f"data/{key}"] for key, node in table.storages.items()}
    return {key: _as_record(entry, big_endian) for key, entry in entries.items()}


def _as_record(entry: Entry, big_endian: bool) -> Record:
    return Record(entry.offset, entry.size, entry.crc, big_endian)


def _details(archive: Archive, table: StorageTable, sizes: Mapping[str, int]) -> dict[str, str]:
    details = {"container": "zip", "archive": archive.top}
    others = [n for n in archive.entries if n not in _OWN and not n.startswith("data/")]
    unused = len(sizes) - len(table.storages)
    if others:
        details["other records"] = ", ".join(others)
    if unused:
        details["unused storages"] = str(unused)
    return details


def _damaged(what: str, where: str, why: str | None = None) -> StorageError:
    fix = "Download or copy the file again; if it stays so, save it again with torch.save."
    return StorageError("CKM715", what, where=where, why=why, fix=fix)
