"""What gives the old files back: the record of a change in place, as bytes and as values.

    "ckmigrate undo 1\\n"
    length (8 bytes, little-endian) and JSON: the files, what each was, where its old bytes stand
    those old bytes, one range after the other
    SHA-256 of everything so far
    length and JSON and its SHA-256: what the files were once the change was done; not there before

A record lies where strangers may write, so that nothing in it is believed: it names files inside
its checkpoint only, and its ranges lie inside of what the file was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeVar

from ckmigrate.formats.base import FileIdentity

__all__ = ["DamagedRecord", "Saved", "UndoRecord", "decode", "encode", "encode_after"]

T = TypeVar("T")

_MAGIC: Final = b"ckmigrate undo 1\n"
_SUM: Final = 32


class DamagedRecord(ValueError):  # noqa: N818
    """Bytes that are no undo record, and why."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One file as it was before.

    name        relative to the checkpoint, "" of a checkpoint that is a file
    identity    what it was; None of a file that the change creates
    mode        its permissions
    insert      bytes that the change puts in front of everything
    size        what it has after the change; None where it is removed
    old         (offset before, bytes) that the change overwrites or cuts off
    created     SHA-256 of the content of a file that the change creates
    """

    name: str
    identity: FileIdentity | None
    mode: int
    insert: int
    size: int | None
    old: tuple[tuple[int, bytes], ...]
    created: str | None = None


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """The old state of a checkpoint that was changed in place.

    target    name of the checkpoint
    revision  where it was before, as text: an id or "base"
    files     what each file was
    after     what the files were when the change was done, in that order, None of one that was
              removed; None while it was not done
    """

    target: str
    revision: str
    files: tuple[Saved, ...]
    after: tuple[FileIdentity | None, ...] | None = None


def encode(record: UndoRecord) -> bytes:
    """The bytes of a record, without what comes after the change."""
    head = {
        "target": record.target,
        "revision": record.revision,
        "files": [
            {
                "name": file.name,
                "identity": _identity_data(file.identity),
                "mode": file.mode,
                "insert": file.insert,
                "size": file.size,
                "old": [[offset, len(data)] for offset, data in file.old],
                "created": file.created,
            }
            for file in record.files
        ],
    }
    body = _MAGIC + _block(head) + b"".join(data for file in record.files for _, data in file.old)
    return body + hashlib.sha256(body).digest()


def encode_after(after: tuple[FileIdentity | None, ...]) -> bytes:
    """What is added to the bytes of a record once the change is done."""
    body = _block({"after": [_identity_data(identity) for identity in after]})
    return body + hashlib.sha256(body).digest()


def _identity_data(identity: FileIdentity | None) -> list[int] | None:
    if identity is None:
        return None
    return [identity.device, identity.inode, identity.size, identity.mtime_ns]


def _block(value: object) -> bytes:
    raw = json.dumps(value, separators=(",", ":")).encode()
    return len(raw).to_bytes(8, "little") + raw


def decode(raw: bytes) -> UndoRecord:
    """The record that these bytes are; DamagedRecord where they are none, or not all of one."""
    if not raw.startswith(_MAGIC):
        raise DamagedRecord("it does not begin as an undo record of this version does")
    try:
        return _decode(raw)
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, DamagedRecord):
            raise
        raise DamagedRecord(f"its content is not that of an undo record ({error})") from None


def _decode(raw: bytes) -> UndoRecord:
    head, position = _unblock(raw, len(_MAGIC))
    files = []
    for item in _list(head["files"]):
        file, position = _saved(item, raw, position)
        files.append(file)
    end = position + _SUM
    if raw[position:end] != hashlib.sha256(raw[:position]).digest():
        raise DamagedRecord("its checksum is not that of its content")
    if not files or len({file.name for file in files}) != len(files):
        raise DamagedRecord("it names a file twice, or none")
    record = UndoRecord(_text(head["target"]), _text(head["revision"]), tuple(files))
    return _with_after(record, raw, end)


def _with_after(record: UndoRecord, raw: bytes, begin: int) -> UndoRecord:
    """What follows may be cut off: then the change was not done."""
    try:
        value, end = _unblock(raw, begin)
        if raw[end : end + _SUM] != hashlib.sha256(raw[begin:end]).digest():
            return record
    except ValueError:
        return record
    after = tuple(_identity(item) for item in _list(value["after"]))
    if len(after) != len(record.files):
        raise DamagedRecord("it does not tell the state of every file after the change")
    return UndoRecord(record.target, record.revision, record.files, after)


def _unblock(raw: bytes, begin: int) -> tuple[Mapping[str, object], int]:
    end = begin + 8 + int.from_bytes(raw[begin : begin + 8], "little")
    if begin + 8 > len(raw) or end > len(raw):
        raise DamagedRecord("it is cut off")
    value = json.loads(raw[begin + 8 : end])
    if not isinstance(value, dict):
        raise DamagedRecord("its content is not that of an undo record")
    return value, end


def _saved(item: object, raw: bytes, position: int) -> tuple[Saved, int]:
    if not isinstance(item, dict):
        raise DamagedRecord("a file in it is none")
    identity, size = _identity(item["identity"]), _optional(item["size"], _count)
    old: list[tuple[int, bytes]] = []
    for offset, nbytes in map(_list, _list(item["old"])):
        begin, length = _count(offset), _count(nbytes)
        if identity is None or begin + length > identity.size or position + length > len(raw):
            raise DamagedRecord("it has bytes that lie outside of their file")
        old.append((begin, raw[position : position + length]))
        position += length
    digest = _optional(item["created"], _text)
    if (identity is None) != (digest is not None) or (identity is None and size is None):
        raise DamagedRecord("it does not tell whether a file is new")
    mode, insert = _count(item["mode"]) & 0o777, _count(item["insert"])
    return Saved(_name(item["name"]), identity, mode, insert, size, tuple(old), digest), position


def _identity(value: object) -> FileIdentity | None:
    if value is None:
        return None
    device, inode, size, mtime = _list(value)
    # Before 1970 the time is negative.
    since = -_count(-mtime) if isinstance(mtime, int) and mtime < 0 else _count(mtime)
    return FileIdentity(_count(device), _count(inode), _count(size), since)


def _optional(value: object, read: Callable[[object], T]) -> T | None:
    return None if value is None else read(value)


def _name(value: object) -> str:
    """A path that leads to nothing but a file inside of the checkpoint."""
    name = _text(value)
    if not name:
        return name
    steps = PurePosixPath(name).parts
    if "\0" in name or "/".join(steps) != name or ".." in steps or name.startswith("/"):
        raise DamagedRecord(f"it names {name!r:.80}, which is no file of the checkpoint")
    return name


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise DamagedRecord(f"{value!r:.40} in it is no number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DamagedRecord(f"{value!r:.40} in it is no text")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise DamagedRecord(f"{value!r:.40} in it is no list")
    return value
