"""A strict reader of zip directories, for archives as torch writes them.

Readers of zip files disagree about crooked ones: which of two equal names wins, whether the header
before the data or the directory at the end is right, where the directory is. A scanner may see a
harmless file where torch sees another. So an archive is accepted only where nobody can disagree:
every entry is stored as it is, unique, inside the file, apart from all others, and its two headers
say the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.read_at import Region, read_at
from ckmigrate.formats.zip_headers import (
    CENTRAL,
    CENTRAL_ID,
    DESCRIPTOR_ID,
    END,
    END64,
    END64_ID,
    END_ID,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_ID,
    LOCATOR,
    LOCATOR_ID,
    Crooked,
    shown,
    wide,
)

__all__ = ["Archive", "Entry", "directory_lines", "read_archive"]

_WITH_DESCRIPTOR: Final = 0x0008
_ENCRYPTED: Final = 0x2041
_KNOWN_FLAGS: Final = 0x080E
_LARGEST_DIRECTORY: Final = 1 << 28
_HINT: Final = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file: where its bytes lie in the archive, how many, and their CRC-32."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The files of an archive by name, without `top`, the folder that all of them are in."""

    top: str
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class _Listed:
    """One line of the central directory, and its bytes."""

    name: bytes
    flags: int
    crc: int
    size: int
    header: int
    raw: bytes


def read_archive(fd: int | Region, size: int, *, where: str) -> Archive:
    """The directory of the archive of `size` bytes that `fd` is open on, or that begins there.

    Raises StorageError CKM715 for an archive that two readers could understand differently, and
    CKM707 when the file cannot be read.
    """
    try:
        return _archive(fd, size, where)
    except Crooked as crooked:
        fix = "Download or copy the file again; if it stays so, save it again with torch.save."
        raise StorageError("CKM715", crooked.what, where=where, why=crooked.why, fix=fix) from None


def directory_lines(fd: int, size: int, *, where: str) -> tuple[str, dict[str, bytes]]:
    """The folder that all entries are in, and the line of each in the central directory by its name
    without that folder, for a writer that goes on listing them.

    The entries themselves are not looked at: `read_archive` has accepted them. Errors are its own.
    """
    try:
        begin, length, count = _directory(fd, size, where)
        listed = list(_central(read_at(fd, begin, length, where=where), count))
        lines = {name: line.raw for name, line in zip(_names(listed), listed, strict=True)}
        top = next(iter(lines), "").split("/")[0]
        return top, {name[len(top) + 1 :]: raw for name, raw in lines.items()}
    except Crooked as crooked:
        raise StorageError("CKM715", crooked.what, where=where, why=crooked.why) from None


def _archive(fd: int | Region, size: int, where: str) -> Archive:
    begin, length, count = _directory(fd, size, where)
    listed = list(_central(read_at(fd, begin, length, where=where), count))
    names = _names(listed)
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = [(begin, size, "the directory")]
    for line, name in zip(listed, names, strict=True):
        entry, end = _local(fd, begin, line, name, where)
        spans.append((line.header, end, name))
        entries[name] = entry
    _check_apart(spans)
    return _under_top(entries)


# --- the directory ----------------------------------------------------------------------------


def _directory(fd: int | Region, size: int, where: str) -> tuple[int, int, int]:
    """Offset and length of the central directory, and the number of its lines."""
    if size < END.size:
        raise Crooked("the file is too short to be a zip archive")
    raw = read_at(fd, size - END.size, END.size, where=where)
    mark, disk, first, here, count, length, begin, comment = END.unpack(raw)
    if mark != END_ID or comment or END_ID in raw[1:]:
        raise Crooked("the zip archive has no directory at its end", "the file may be cut off")
    tail = size - END.size
    if size >= END.size + LOCATOR.size:
        raw = read_at(fd, tail - LOCATOR.size, LOCATOR.size, where=where)
        if raw[:4] == LOCATOR_ID:
            small = (disk, first, here, count, length, begin)
            tail, count, length, begin = _directory64(fd, tail - LOCATOR.size, raw, small, where)
            disk = first = 0
            here = count
    if disk or first or here != count:
        raise Crooked("the zip archive is one part of several")
    if begin + length != tail or length > _LARGEST_DIRECTORY:
        raise Crooked("the directory of the zip archive is not where its end says")
    return begin, length, count


def _directory64(
    fd: int | Region, locator: int, raw: bytes, small: tuple[int, ...], where: str
) -> tuple[int, int, int, int]:
    """The 64-bit end record; where the 32-bit one has room for a number, it must be the same."""
    _, disk, offset, disks = LOCATOR.unpack(raw)
    if disk or disks != 1 or offset + END64.size != locator:
        raise Crooked("the zip archive has no 64-bit end record where it says")
    fields = END64.unpack(read_at(fd, offset, END64.size, where=where))
    mark, length = fields[:2]
    if mark != END64_ID or length != END64.size - 12:
        raise Crooked("the zip archive has no 64-bit end record where it says")
    for number, (narrow, full) in enumerate(zip(small, fields[4:], strict=True)):
        if narrow != full and narrow != (FULL16 if number < 4 else FULL32):
            raise Crooked("the two end records of the zip archive say different things")
    if fields[4] or fields[5] or fields[6] != fields[7]:
        raise Crooked("the zip archive is one part of several")
    return offset, fields[7], fields[8], fields[9]


def _central(raw: bytes, count: int) -> Iterator[_Listed]:
    position = 0
    for _ in range(count):
        line = position
        if position + CENTRAL.size > len(raw):
            raise Crooked("the directory of the zip archive is cut off")
        fields = CENTRAL.unpack_from(raw, position)
        mark, _, _, flags, method, _, _, crc, packed, size, names, extras, notes, disk = fields[:14]
        header = fields[16]
        position += CENTRAL.size
        name = raw[position : position + names]
        extra = raw[position + names : position + names + extras]
        position += names + extras + notes
        if mark != CENTRAL_ID or position > len(raw) or notes or disk:
            raise Crooked("the directory of the zip archive has a broken line")
        _check_method(name, flags, method)
        size, packed, header = wide(extra, (size, packed, header), name)
        if packed != size:
            raise Crooked(f"entry {shown(name)} has two sizes, {packed} and {size}")
        yield _Listed(name, flags, crc, size, header, raw[line:position])
    if position != len(raw):
        raise Crooked("the directory of the zip archive has more lines than it says")


def _check_method(name: bytes, flags: int, method: int) -> None:
    if flags & _ENCRYPTED:
        raise Crooked(f"entry {shown(name)} is encrypted")
    if method:
        why = "torch stores entries as they are; this archive was packed by another program"
        raise Crooked(f"entry {shown(name)} is compressed", why)
    if flags & ~_KNOWN_FLAGS:
        raise Crooked(f"entry {shown(name)} has unknown flags, 0x{flags:04x}")


# --- names ------------------------------------------------------------------------------------


def _names(listed: list[_Listed]) -> list[str]:
    """Unique even where case is ignored: torch's own reader looks names up that way."""
    names = [_decoded(line.name) for line in listed]
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            why = "readers differ in which of them they take"
            raise Crooked(f"entry {shown(name.encode())} is there twice", why)
        seen.add(name.casefold())
    return names


def _decoded(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Crooked(f"entry {shown(raw)} has a name that is not UTF-8") from None
    steps = name.removesuffix("/").split("/")
    if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(steps):
        raise Crooked(f"entry {shown(raw)} has a name that is no plain path")
    return name


def _under_top(entries: Mapping[str, Entry]) -> Archive:
    tops = {name.split("/")[0] for name in entries}
    if len(tops) != 1 or not all("/" in name for name in entries):
        raise Crooked(
            "the entries of the zip archive are not in one folder",
            "torch puts everything in one; this archive was made by another program",
        )
    top = tops.pop()
    files = {name[len(top) + 1 :]: entry for name, entry in entries.items()}
    return Archive(top, {name: entry for name, entry in files.items() if not _is_folder(name)})


def _is_folder(name: str) -> bool:
    return not name or name.endswith("/")


# --- the headers before the data ----------------------------------------------------------------


def _local(fd: int | Region, limit: int, line: _Listed, name: str, where: str) -> tuple[Entry, int]:
    """The entry behind a line of the directory, and where everything about it ends."""
    if line.header + LOCAL.size > limit:
        raise Crooked(f"entry {shown(line.name)} begins outside of the archive")
    guess = min(LOCAL.size + len(line.name) + _HINT, limit - line.header)
    raw = read_at(fd, line.header, guess, where=where)
    mark, _, flags, method, _, _, crc, packed, size, names, extras = LOCAL.unpack_from(raw)
    begin = line.header + LOCAL.size + names + extras
    if mark != LOCAL_ID or begin + line.size > limit:
        raise Crooked(f"entry {shown(line.name)} lies outside of the archive")
    if begin - line.header > len(raw):
        raw = read_at(fd, line.header, begin - line.header, where=where)
    own_name = raw[LOCAL.size : LOCAL.size + names]
    if own_name != line.name or flags != line.flags or method:
        raise Crooked(f"entry {shown(line.name)} is called {shown(own_name)} at its data")
    extra = raw[LOCAL.size + names : begin - line.header]
    size, packed = _local_sizes(extra, size, packed, line)
    if name.endswith("/") and line.size:
        raise Crooked(f"entry {shown(line.name)} is a folder with bytes")
    return _checked(fd, limit, line, begin, (crc, packed, size), where)


def _local_sizes(extra: bytes, size: int, packed: int, line: _Listed) -> tuple[int, int]:
    """torch leaves the sizes of a streamed entry zero, with a ZIP64 field where they are large."""
    if line.flags & _WITH_DESCRIPTOR and not size and not packed:
        return 0, 0
    sizes = wide(extra, (size, packed), line.name)
    return sizes[0], sizes[1]


def _checked(
    fd: int | Region, limit: int, line: _Listed, begin: int, found: tuple[int, int, int], where: str
) -> tuple[Entry, int]:
    """`found` is what the local header says: CRC and the two sizes, or zeros when a descriptor
    behind the data says it."""
    expected = (line.crc, line.size, line.size)
    end = begin + line.size
    said = found == expected
    if line.flags & _WITH_DESCRIPTOR and (said or found == (0, 0, 0)):
        length = _descriptor(read_at(fd, end, min(24, limit - end), where=where), expected)
        said = said or length > 0
        end += length
    if not said:
        raise Crooked(
            f"entry {shown(line.name)} has another size or checksum at its data",
            "a scanner that reads the one and torch, which reads the other, see different files",
        )
    return Entry(begin, line.size, line.crc), end


def _descriptor(raw: bytes, expected: tuple[int, int, int]) -> int:
    """The length of a data descriptor that says what is expected; 0 where there is none."""
    for layout in ("<4s3I", "<4sIQQ"):
        length = struct.calcsize(layout)
        told = struct.unpack_from(layout, raw) if len(raw) >= length else ()
        if told == (DESCRIPTOR_ID, *expected):
            return length
    return 0


def _check_apart(spans: list[tuple[int, int, str]]) -> None:
    for (_, end, first), (begin, _, second) in pairwise(sorted(spans)):
        if end > begin:
            raise Crooked(f"entries {first!r} and {second!r} lie over each other")
