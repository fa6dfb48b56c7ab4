"""The safetensors format: a strict reader of the header, and a writer that leaves room in it.

A file is eight bytes of header length (little endian), a JSON object, then the data of all tensors
without holes. The header maps a name to {"dtype", "shape", "data_offsets": [begin, end)}; the
reserved name "__metadata__" maps strings to strings, and "ckmigrate" in it holds our tag. Of names
that are one tensor, savers may store one and say so in the metadata: {"head.weight": "emb.weight"}.

The reader accepts only what every other reader would understand the same way: no duplicate names,
no holes, no overlaps, no bytes that belong to nobody. It reads the header and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import BLOCK, FileIdentity, FileImage, Record, Slot, Stored
from ckmigrate.formats.safetensors_header import (
    DTYPES,
    METADATA,
    Entry,
    Malformed,
    check_size,
    is_unicode,
    parse,
)
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import TensorSpec

__all__ = [
    "MAX_HEADER",
    "TAG_KEY",
    "TIED",
    "header_over",
    "image",
    "is_safetensors",
    "read",
]

TAG_KEY: Final = "ckmigrate"
TIED: Final = "tied names left out"
"""The key of `details` with the count of names that only the metadata has, where there are any."""
MAX_HEADER: Final = 100_000_000

_ROOM: Final = 512
_ALIGNMENT: Final = 8
_AGAIN: Final = "Download or save the file again; this one breaks the safetensors format."


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` looks like safetensors.

    A length too large for the file still looks like it, so that a truncated file is called
    truncated; eight bytes of text do not, as a number they are astronomically large.
    """
    return size > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**48


def read(path: Path, fd: int, stat: os.stat_result) -> Stored:
    """Read the header of the open file `fd`.

    The tree is a flat dict name → Tensor in the order of the data (empty tensors that share an
    offset: in the order of the header); each tensor has its own Storage whose key is its name. A
    name that the metadata ties to a stored one comes last, on the Storage of that one. `details`
    has the offset of the data and the spare bytes of the header, both in decimal.

    Raises StorageError CKM700 (length), CKM701 (not JSON, duplicate keys), CKM702 (metadata),
    CKM703 (dtype or shape), CKM704 (offsets), CKM707 (the file cannot be read).
    """
    try:
        return _read(path, fd, stat)
    except Malformed as error:
        raise StorageError(
            error.code, error.what, where=str(path), why=error.why, fix=_AGAIN
        ) from None
    except OSError as error:
        raise StorageError(
            "CKM707",
            f"cannot read {path.name}: {error.strerror}",
            where=str(path),
            fix="Check the disk or the network share that the file is on.",
        ) from error


def _read(path: Path, fd: int, stat: os.stat_result) -> Stored:
    raw = _header(fd, stat.st_size)
    start = 8 + len(raw)
    metadata, entries = parse(raw, stat.st_size - start)
    stored = {entry.name: _tensor(entry) for entry in entries}
    tied = {
        name: stored[kept]
        for name, kept in metadata.items()
        if name != TAG_KEY and name not in stored and kept in stored
    }
    return Stored(
        path=path,
        format="safetensors",
        identity=FileIdentity.of(stat),
        tree=stored | tied,
        records={e.name: Record(start + e.begin, e.end - e.begin) for e in entries},
        metadata={
            key: value for key, value in metadata.items() if key != TAG_KEY and key not in tied
        },
        tag=metadata.get(TAG_KEY),
        details={
            "container": "safetensors",
            "data offset": str(start),
            "header room": str(len(raw) - len(raw.rstrip(b" "))),
            **({TIED: str(len(tied))} if tied else {}),
        },
    )


def _header(fd: int, size: int) -> bytes:
    """The header's bytes, padding included, after its length was found believable."""
    prefix = _pread(fd, 8, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise Malformed(
            "CKM700",
            "the file is truncated: it ends inside the safetensors header",
            f"8 bytes of length and a header of {length} bytes should follow each other, "
            f"and the file has {size} bytes",
        )
    if not 2 <= length <= MAX_HEADER:
        raise Malformed(
            "CKM700",
            f"the safetensors header says that it is {length} bytes long",
            f"a header has between 2 and {MAX_HEADER} bytes",
        )
    raw = _pread(fd, length, 8)
    if len(raw) < length:
        raise Malformed("CKM700", "the file became shorter while its header was read")
    return raw


def _pread(fd: int, nbytes: int, offset: int) -> bytes:
    """Up to `nbytes` bytes: fewer only where the file ends."""
    data = b""
    while len(data) < nbytes:
        part = os.pread(fd, nbytes - len(data), offset + len(data))
        if not part:
            break
        data += part
    return data


def _tensor(entry: Entry) -> Tensor:
    storage = Storage(entry.name, entry.spec.dtype, entry.end - entry.begin)
    return Tensor(storage, entry.spec, strides=_strides(entry.spec.shape))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, in elements; sizes of 0 count as 1, as in torch."""
    steps = accumulate(reversed(shape[1:]), lambda n, size: n * max(size, 1), initial=1)
    return tuple(reversed(tuple(steps))) if shape else ()


def image(
    tensors: Sequence[tuple[str, TensorSpec]],
    *,
    metadata: Mapping[str, str],
    tag: str | None,
    order: Sequence[str] | None = None,
    phase: int = 0,
) -> FileImage:
    """The file that holds `tensors`; its slots are keyed by tensor name.

    The data lies in the order of `order` (all names, each once) where that keeps every tensor at a
    multiple of its item size, and otherwise by falling item size, in the given order among equals.
    It begins at an offset that is `phase` modulo 4096, rounded down to a multiple of 8: a copy that
    keeps the phase of its source can share blocks with it. At least 512 bytes of the header are
    spaces, which the next tag may use. The same arguments give the same bytes.

    Raises StorageError CKM705 for what the format cannot hold.
    """
    specs = _writable(tensors, metadata)
    names = _data_order(specs, order)
    ends = list(accumulate(specs[name].nbytes for name in names))
    offsets = dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))
    header = _padded(_render(specs, offsets, metadata, tag), phase)
    start = 8 + len(header)
    return FileImage(
        size=start + (ends[-1] if ends else 0),
        chunks=((0, len(header).to_bytes(8, "little") + header),),
        slots={name: Slot(start + offsets[name][0], specs[name].nbytes) for name in names},
    )


def header_over(
    made: FileImage, begins: Mapping[str, int], *, start: int, block: int = BLOCK
) -> bytes:
    """Length and header of the file `made`, with every tensor where its data lies already.

    begins  where each tensor of the file begins, counted from the start of the data
    start   where the data starts: the header ends there too where it fits. Where it does not, it is
            longer by whole blocks, so that the data can be moved back by inserting them.

    Raises StorageError CKM705 where the header is too long for the format.
    """
    ((_, raw),) = made.chunks
    pairs, entries = parse(raw[8:], made.size - len(raw))
    specs = {entry.name: entry.spec for entry in entries}
    order = sorted(specs, key=lambda name: (begins[name], specs[name].nbytes))
    spans = {name: (begins[name], begins[name] + specs[name].nbytes) for name in order}
    tag = pairs.pop(TAG_KEY, None)
    header = _render(specs, spans, pairs, tag)
    missing = 8 + len(header) - start
    length = start - 8 + (-(-(missing + _ROOM) // block) * block if missing > 0 else 0)
    if length > MAX_HEADER:
        raise _too_long(length)
    return length.to_bytes(8, "little") + header.ljust(length)


def _unwritable(what: str, why: str, fix: str) -> StorageError:
    return StorageError("CKM705", what, why=why, fix=fix)


def _writable(
    tensors: Sequence[tuple[str, TensorSpec]], metadata: Mapping[str, str]
) -> dict[str, TensorSpec]:
    """The tensors by name, once everything is known to fit into the format."""
    specs: dict[str, TensorSpec] = {}
    for name, spec in tensors:
        _check_writable(name, spec, taken=name in specs)
        specs[name] = spec
    for key, value in metadata.items():
        if key == TAG_KEY or not is_unicode(key + value):
            raise _unwritable(
                f"metadata {key!r} cannot be written to safetensors",
                f"{TAG_KEY!r} is reserved for the tag, and keys and values must be valid Unicode",
                f"Rename it in the migration: ck.meta.rename({key!r}, …).",
            )
    return specs


def _check_writable(name: str, spec: TensorSpec, *, taken: bool) -> None:
    if taken or name == METADATA or not is_unicode(name):
        raise _unwritable(
            f"tensor {name!r} cannot be written to safetensors under this name",
            "another tensor has it" if taken else "it is reserved, or not valid Unicode",
            "Rename it in the migration, or write a torch file (.pt).",
        )
    if spec.dtype.code not in DTYPES:
        raise _unwritable(
            f"tensor {name!r} cannot be written to safetensors: the format has no {spec.dtype}",
            f"it is {spec}",
            "Cast it in the migration, or write a torch file (.pt).",
        )
    try:
        check_size(name, spec)
    except Malformed as error:
        raise _unwritable(
            error.what, error.why or "", "Change its shape in the migration."
        ) from None


def _data_order(specs: Mapping[str, TensorSpec], order: Sequence[str] | None) -> list[str]:
    names = list(specs if order is None else order)
    if sorted(names) != sorted(specs):
        raise ValueError("order does not name every tensor once")
    if order is not None and _is_aligned(specs[name] for name in names):
        return names
    return sorted(names, key=lambda name: -specs[name].dtype.bits)


def _is_aligned(specs: Iterable[TensorSpec]) -> bool:
    position = 0
    for spec in specs:
        if position % max(spec.dtype.bits // 8, 1):
            return False
        position += spec.nbytes
    return True


def _render(
    specs: Mapping[str, TensorSpec],
    offsets: Mapping[str, tuple[int, int]],
    metadata: Mapping[str, str],
    tag: str | None,
) -> bytes:
    """The header as compact JSON: metadata by key, then the tensors in the order of the data."""
    pairs = dict(sorted(metadata.items())) | ({} if tag is None else {TAG_KEY: tag})
    document: dict[str, object] = {METADATA: pairs} if pairs else {}
    for name, span in offsets.items():
        spec = specs[name]
        document[name] = {"dtype": spec.dtype.code, "shape": spec.shape, "data_offsets": span}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _padded(header: bytes, phase: int) -> bytes:
    """The header with spaces behind it, so that the data begins where it should."""
    wanted = phase % BLOCK // _ALIGNMENT * _ALIGNMENT
    needed = 8 + len(header) + _ROOM
    length = needed + (wanted - needed) % BLOCK - 8
    if length > MAX_HEADER:
        raise _too_long(length)
    return header.ljust(length)


def _too_long(length: int) -> StorageError:
    return _unwritable(
        f"the safetensors header would have {length} bytes",
        f"the format allows {MAX_HEADER}",
        "Write a torch file (.pt), which has no such limit.",
    )
