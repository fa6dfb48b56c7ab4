"""Reading the tensors of an open checkpoint by byte ranges."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.checksums import joined, sum_of
from ckmigrate.expr import row_major
from ckmigrate.formats.base import FileIdentity, Record, Stored, StoredFile
from ckmigrate.formats.open_checkpoint import open_regular
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.lower import SourceRange
from ckmigrate.spec import DType

if TYPE_CHECKING:
    import numpy as np

    Items = np.ndarray[Any, np.dtype[Any]]

__all__ = ["SourceFile", "changed", "is_plain", "open_source"]

_MOST_OPEN = 64


def is_plain(tensor: Tensor, record: Record) -> bool:
    """Whether the tensor's data is one contiguous little-endian range of the file, or ranges of
    several one after the other."""
    strides = tuple(
        0 if size == 1 else stride
        for size, stride in zip(tensor.spec.shape, tensor.strides, strict=True)
    )
    swapped = record.big_endian and tensor.spec.dtype.bits > 8
    lazy = tensor.conj or tensor.neg or record.scattered
    return not lazy and not swapped and strides == row_major(tensor.spec.shape)


class Descriptors(Protocol):
    """Open files by number; a tuple is one."""

    def __getitem__(self, number: int, /) -> int: ...


class _OpenFiles:
    """The files of a checkpoint, opened when they are needed, and not too many at a time."""

    def __init__(self, files: Sequence[StoredFile]) -> None:
        self._files = files
        self._open: dict[int, int] = {}

    def __getitem__(self, number: int) -> int:
        fd = self._open.pop(number, None)
        # The last one is the newest: what was used longest ago is closed first.
        self._open[number] = self._opened(number) if fd is None else fd
        if len(self._open) > _MOST_OPEN:
            os.close(self._open.pop(next(iter(self._open))))
        return self._open[number]

    def _opened(self, number: int) -> int:
        file = self._files[number]
        fd = open_regular(file.path)
        found = FileIdentity.of(os.fstat(fd))
        if found.inode != file.identity.inode:
            os.close(fd)
            raise changed(file, found)
        return fd

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def changed(file: StoredFile, found: FileIdentity | None) -> StorageError:
    """CKM753: a file is not what it was when the migration was planned."""
    old = file.identity
    return StorageError(
        "CKM753",
        f"{file.path.name} changed while it was upgraded",
        where=str(file.path),
        why="it is gone now"
        if found is None
        else f"it was {old.size} bytes of inode {old.inode} and is "
        f"{found.size} bytes of inode {found.inode}, or was written again",
        fix="Run again when nothing else writes to the file. Nothing was changed.",
    )


@contextmanager
def open_source(stored: Stored, tensors: Mapping[str, Tensor]) -> Iterator[SourceFile]:
    """The tensors of a checkpoint, whose files are open inside the block."""
    files = _OpenFiles(stored.files)
    try:
        yield SourceFile(files, stored, tensors)
    finally:
        files.close()


class SourceFile:
    """The tensors of a checkpoint, on open descriptors that the caller owns.

    Bytes come by pread: a file that shrinks meanwhile is an error, not a crash. A record that has a
    checksum is checked once, before anything of it is used.
    """

    def __init__(self, fds: Descriptors, stored: Stored, tensors: Mapping[str, Tensor]) -> None:
        self.fds = fds
        self._stored = stored
        self._tensors = dict(tensors)
        self._ends: dict[str, list[int]] = {}
        self._checked: set[str] = set()
        self._values: tuple[str, Items] | None = None

    def record(self, name: str) -> Record:
        return self._stored.records[self._tensors[name].storage.key]

    def is_plain(self, name: str) -> bool:
        tensor = self._tensors[name]
        return tensor.spec.numel == 0 or is_plain(tensor, self.record(name))

    def resolved(self, item: SourceRange) -> Iterator[SourceRange]:
        """The range, or its parts where the tensor was saved in several; each of one record."""
        tensor, record = self._tensors[item.name], self.record(item.name)
        if not record.boxes:
            yield item
            return
        ends = self._ends.get(tensor.storage.key)
        if ends is None:
            sizes = (box.tensor.spec.nbytes for box in record.boxes)
            ends = self._ends[tensor.storage.key] = list(accumulate(sizes))
        start = item.start + tensor.offset * tensor.spec.dtype.bits // 8
        stop = start + item.nbytes
        number = bisect_right(ends, start)
        while start < stop:
            begin = ends[number] - record.boxes[number].tensor.spec.nbytes
            nbytes = min(ends[number], stop) - start
            yield SourceRange(self._part(tensor.storage.key, record, number), start - begin, nbytes)
            start += nbytes
            number += 1

    def _part(self, key: str, record: Record, number: int) -> str:
        """A name for one box; no entry of a file that has boxes has one like it."""
        name = f"\0{key}\0{number}"
        self._tensors.setdefault(name, record.boxes[number].tensor)
        return name

    def fd(self, name: str) -> int:
        """The open file that the bytes of a tensor are in; it may be closed by the next call."""
        return self.fds[self.record(name).file]

    def offset(self, name: str) -> int:
        """File offset of the first byte of a plain tensor."""
        tensor = self._tensors[name]
        return self.record(name).offset + tensor.offset * tensor.spec.dtype.bits // 8

    def is_whole_record(self, name: str, start: int, nbytes: int) -> bool:
        record = self.record(name)
        return start == 0 and self.offset(name) == record.offset and nbytes == record.nbytes

    def has_unchecked_sum(self, name: str) -> bool:
        key = self._tensors[name].storage.key
        return self._stored.records[key].crc is not None and key not in self._checked

    def confirm(self, name: str, crc: int) -> None:
        """Compare the checksum of a whole record that the caller has read."""
        key = self._tensors[name].storage.key
        record = self._stored.records[key]
        if record.crc is not None and crc != record.crc:
            raise StorageError(
                "CKM760",
                f"the data of '{name}' is damaged",
                where=str(self._stored.files[record.file].path),
                why=f"The checksum of record '{key}' is {crc:08x}, the archive says "
                f"{record.crc:08x}.",
                fix="Restore the file from another copy; nothing was written.",
            )
        self._checked.add(key)

    def check(self, name: str) -> None:
        """Read the whole record of a tensor and compare its checksum, once."""
        if self.has_unchecked_sum(name):
            record = self.record(name)
            self.confirm(name, sum_of(self.fds[record.file], record.offset, record.nbytes))

    def confirm_parts(self, parts: Iterable[tuple[SourceRange, int]]) -> None:
        """Compare the checksums of records of which the caller has summed these ranges. Records
        that the ranges do not cover are read."""
        by_record: dict[str, list[tuple[int, int, int, str]]] = {}
        for part, crc in parts:
            key, start = self._tensors[part.name].storage.key, self.offset(part.name) + part.start
            by_record.setdefault(key, []).append((start, part.nbytes, crc, part.name))
        for found in by_record.values():
            self._confirm_record(self.record(found[0][3]), sorted(found))

    def _confirm_record(self, record: Record, parts: list[tuple[int, int, int, str]]) -> None:
        position, sums, name = record.offset, [], parts[0][3]
        for start, nbytes, crc, _ in parts:
            if start == position:
                sums.append((crc, nbytes))
                position += nbytes
        if position == record.offset + record.nbytes:
            self.confirm(name, joined(sums))
        else:
            self.check(name)

    def pread(self, record: Record, start: int, nbytes: int) -> bytes:
        """Exactly nbytes bytes of a record; StorageError CKM753 where the file ends before."""
        return syscalls.pread(self.fds[record.file], nbytes, offset=record.offset + start)

    def read_bytes(self, name: str, start: int, nbytes: int) -> bytes:
        """Bytes of a plain tensor, counted from its first; not checked against a checksum."""
        record = self.record(name)
        return self.pread(record, self.offset(name) - record.offset + start, nbytes)

    def read(self, name: str, first: int, count: int) -> bytes | memoryview:
        """Elements first … first + count of the row-major values, for the caller to keep."""
        tensor = self._tensors[name]
        bits = tensor.spec.dtype.bits
        if count == 0:
            return b""
        if self.is_plain(name):
            whole = SourceRange(name, first * bits // 8, count * bits // 8)
            return self._read_resolved(whole)
        if self._values is None or self._values[0] != name:
            self._values = (name, self._materialise(name, tensor))
        return self._values[1][first : first + count].tobytes()

    def _read_resolved(self, item: SourceRange) -> bytes | memoryview:
        if not self.record(item.name).boxes:
            return self._read_new(item.name, item.start, item.nbytes)
        parts = self.resolved(item)
        return b"".join(self._read_new(part.name, part.start, part.nbytes) for part in parts)

    def _read_new(self, name: str, start: int, nbytes: int) -> memoryview:
        """Bytes of a plain tensor in memory of their own; a record is summed as it is read."""
        import numpy as np

        # numpy asks for large pages, which bytes objects do not get.
        data = np.empty(nbytes, np.uint8).data
        if not self.is_whole_record(name, start, nbytes):
            self.check(name)
        record = self.record(name)
        place = self.offset(name) + start
        syscalls.pread_into(self.fds[record.file], data, offset=place)
        if self.has_unchecked_sum(name):
            self.confirm(name, zlib.crc32(data))
        return data

    def _materialise(self, name: str, tensor: Tensor) -> Items:
        """Row-major little-endian values of a strided, big-endian or lazily negated tensor, or one
        that is put together from boxes."""
        import numpy as np

        from ckmigrate.execute.items import item_type

        dtype, shape = tensor.spec.dtype, tensor.spec.shape
        width = dtype.bits // 8
        span = 1 + sum((n - 1) * st for n, st in zip(shape, tensor.strides, strict=True))
        if self.record(name).boxes:
            begin = tensor.offset * width
            data = self._assembled(tensor.storage)[begin : begin + span * width]
        else:
            self.check(name)
            data = self.read_bytes(name, 0, span * width)
        part = np.dtype(f"u{_component(dtype)}")
        numbers = np.frombuffer(data, dtype=part)
        if self.record(name).big_endian:
            numbers = numbers.byteswap()
        flat = np.frombuffer(numbers.tobytes(), dtype=item_type(dtype))
        steps = tuple(stride * width for stride in tensor.strides)
        values = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps))
        return _with_signs(values.reshape(-1), dtype, conj=tensor.conj, neg=tensor.neg)

    def _assembled(self, storage: Storage) -> bytes:
        """The bytes of a Storage that was saved in boxes."""
        import numpy as np

        from ckmigrate.execute.items import item_type

        record = self._stored.records[storage.key]
        item = item_type(storage.dtype)
        values = np.empty(record.shape, item)
        for number, box in enumerate(record.boxes):
            data = self.read(self._part(storage.key, record, number), 0, box.tensor.spec.numel)
            sizes = box.tensor.spec.shape
            place = tuple(slice(o, o + n) for o, n in zip(box.offsets, sizes, strict=True))
            values[place] = np.frombuffer(data, item).reshape(sizes)
        return values.tobytes()


def _component(dtype: DType) -> int:
    """Bytes of one real number of the dtype."""
    return dtype.bits // (16 if dtype.kind == "complex" else 8)


def _with_signs(values: Items, dtype: DType, *, conj: bool, neg: bool) -> Items:
    """Apply torch's lazy conjugation and negation: sign bits of floats, two's complement."""
    import numpy as np

    if not conj and not neg:
        return values
    width = _component(dtype)
    numbers = values.view(f"u{width}").copy()
    sign = np.array(1 << (8 * width - 1), dtype=f"u{width}")
    if neg and dtype.kind == "int":
        numbers = ~numbers + np.array(1, dtype=numbers.dtype)
    elif neg:
        numbers ^= sign
    if conj and dtype.kind == "complex":
        numbers[1::2] ^= sign
    return numbers.view(values.dtype)
