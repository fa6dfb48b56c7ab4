"""Zip archives to be written, as data: where every byte stands before one of them is written.

Entries are stored, their data begins on a multiple of 64 bytes as torch's own does (so that a
memory map can be used as tensors), and all dates are the same. Sizes are known beforehand; the
checksums of what the executor fills in come last, in `finish`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckmigrate.formats.base import BLOCK, FileImage, Slot
from ckmigrate.formats.zip_headers import (
    CENTRAL,
    CENTRAL_ID,
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
    ZIP64,
)

__all__ = ["ALIGNMENT", "Member", "zip_image"]

ALIGNMENT: Final = 64

_UTF8: Final = 0x0800
_STORED: Final = 0
_FIRST_OF_1980: Final = 0x0021
_PADDING: Final = 0x4246
_PLAIN, _LARGE = 20, 45


@dataclass(frozen=True, slots=True)
class Member:
    """One entry to be written.

    name   in the archive, with its folder
    data   its bytes; None when the executor fills them in
    size   in bytes
    slot   the key under which the executor knows it; None when `data` is given
    phase  wanted offset of the data modulo BLOCK, a multiple of ALIGNMENT; None for any
    """

    name: str
    size: int
    data: bytes | None = None
    slot: str | None = None
    phase: int | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    member: Member
    header: int
    begin: int


def zip_image(
    members: Sequence[Member], *, begin: int = 0, kept: Sequence[bytes] = ()
) -> FileImage:
    """The archive with these members, in this order; slots by `Member.slot`.

    begin  where they begin: behind the end of an archive that they are added to
    kept   lines of its directory, for those of its entries that the new directory still lists

    What stands before `begin` is no part of the image, and stays where it is.
    """
    placed = _place(members, begin)
    directory = placed[-1].begin + placed[-1].member.size if placed else begin
    chunks = [
        (p.header, _local_header(p, zlib.crc32(p.member.data)) + p.member.data)
        for p in placed
        if p.member.data is not None
    ]
    slots = {
        p.member.slot: Slot(p.begin, p.member.size) for p in placed if p.member.slot is not None
    }

    def finish(crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
        own = [_crc(p.member, crcs) for p in placed]
        headers = [
            (p.header, _local_header(p, crc))
            for p, crc in zip(placed, own, strict=True)
            if p.member.data is None
        ]
        return (*headers, (directory, _directory(placed, own, directory, kept)))

    size = directory + len(_directory(placed, [0] * len(placed), directory, kept))
    return FileImage(size, tuple(chunks), slots, finish)


def _crc(member: Member, crcs: Mapping[str, int]) -> int:
    if member.data is not None:
        return zlib.crc32(member.data)
    return crcs[str(member.slot)] if member.size else 0


def _place(members: Iterable[Member], end: int) -> list[_Placed]:
    placed: list[_Placed] = []
    for member in members:
        begin = _data_offset(member, end)
        placed.append(_Placed(member, end, begin))
        end = begin + member.size
    return placed


def _data_offset(member: Member, header: int) -> int:
    """The first aligned place behind the header and an extra field that fills the gap."""
    earliest = header + LOCAL.size + len(member.name.encode()) + len(_sizes64(member)) + 4
    if member.phase is None:
        return earliest + -earliest % ALIGNMENT
    return earliest + (member.phase - earliest) % BLOCK


def _sizes64(member: Member) -> bytes:
    if member.size < FULL32:
        return b""
    return struct.pack("<HHQQ", ZIP64, 16, member.size, member.size)


def _local_header(placed: _Placed, crc: int) -> bytes:
    member = placed.member
    name, wide = member.name.encode(), _sizes64(member)
    gap = placed.begin - placed.header - LOCAL.size - len(name) - len(wide)
    extra = wide + struct.pack("<HH", _PADDING, gap - 4) + b"Z" * (gap - 4)
    size = min(member.size, FULL32)
    needed = _LARGE if wide else _PLAIN
    start = (LOCAL_ID, needed, _UTF8, _STORED, 0, _FIRST_OF_1980, crc, size, size)
    return LOCAL.pack(*start, len(name), len(extra)) + name + extra


def _directory(
    placed: Sequence[_Placed], crcs: Sequence[int], offset: int, kept: Sequence[bytes]
) -> bytes:
    """The central directory and the end records; its length does not depend on the checksums."""
    lines = b"".join((*kept, *(_line(p, crc) for p, crc in zip(placed, crcs, strict=True))))
    count, length = len(kept) + len(placed), len(lines)
    end64 = END64.pack(END64_ID, 44, _LARGE, _LARGE, 0, 0, count, count, length, offset)
    locator = LOCATOR.pack(LOCATOR_ID, 0, offset + length, 1)
    small, narrow = min(count, FULL16), (min(length, FULL32), min(offset, FULL32))
    return lines + end64 + locator + END.pack(END_ID, 0, 0, small, small, *narrow, 0)


def _line(placed: _Placed, crc: int) -> bytes:
    member, name = placed.member, placed.member.name.encode()
    large = [number for number in (member.size, member.size, placed.header) if number >= FULL32]
    extra = struct.pack(f"<HH{len(large)}Q", ZIP64, 8 * len(large), *large) if large else b""
    needed = _LARGE if large else _PLAIN
    size = min(member.size, FULL32)
    start = (CENTRAL_ID, needed, needed, _UTF8, _STORED, 0, _FIRST_OF_1980, crc, size, size)
    header = min(placed.header, FULL32)
    return CENTRAL.pack(*start, len(name), len(extra), 0, 0, 0, 0, header) + name + extra
