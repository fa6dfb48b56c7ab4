"""The fixed parts of zip files, for the reader and the writer: structures, marks, extra fields."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

__all__ = [
    "CENTRAL",
    "CENTRAL_ID",
    "DESCRIPTOR_ID",
    "END",
    "END64",
    "END64_ID",
    "END_ID",
    "FULL16",
    "FULL32",
    "LOCAL",
    "LOCAL_ID",
    "LOCATOR",
    "LOCATOR_ID",
    "ZIP64",
    "Crooked",
    "shown",
    "wide",
]

LOCAL: Final = struct.Struct("<4s5H3I2H")
CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
END: Final = struct.Struct("<4s4H2IH")
LOCATOR: Final = struct.Struct("<4sIQI")
END64: Final = struct.Struct("<4sQ2H2I4Q")

LOCAL_ID: Final = b"PK\x03\x04"
CENTRAL_ID: Final = b"PK\x01\x02"
DESCRIPTOR_ID: Final = b"PK\x07\x08"
END_ID: Final = b"PK\x05\x06"
LOCATOR_ID: Final = b"PK\x06\x07"
END64_ID: Final = b"PK\x06\x06"

FULL16: Final = 0xFFFF
FULL32: Final = 0xFFFFFFFF
ZIP64: Final = 1
_OTHER_NAME: Final = 0x7075


class Crooked(Exception):  # noqa: N818
    """What is wrong with the archive, and with which entry."""

    def __init__(self, what: str, why: str | None = None) -> None:
        super().__init__(what)
        self.what, self.why = what, why


def wide(extra: bytes, narrow: tuple[int, ...], name: bytes) -> tuple[int, ...]:
    """The numbers, with those that 32 bits cannot hold taken from the ZIP64 field."""
    fields = [value for kind, value in _extra_fields(extra, name) if kind == ZIP64]
    missing = [number for number in narrow if number == FULL32]
    wide = fields[0] if fields else b""
    if len(fields) > 1 or len(wide) != 8 * len(missing):
        raise Crooked(f"entry {shown(name)} has a crooked ZIP64 field")
    numbers = iter(struct.unpack(f"<{len(missing)}Q", wide))
    return tuple(next(numbers) if number == FULL32 else number for number in narrow)


def _extra_fields(extra: bytes, name: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            raise Crooked(f"entry {shown(name)} has a broken extra field")
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4 + length
        if position > len(extra):
            raise Crooked(f"entry {shown(name)} has a broken extra field")
        if kind == _OTHER_NAME:
            raise Crooked(f"entry {shown(name)} has a second name, which some readers prefer")
        yield kind, extra[position - length : position]


def shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))
