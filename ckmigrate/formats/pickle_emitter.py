"""The small words of a pickle: numbers, text, names and the memo, appended to a buffer."""

from __future__ import annotations

from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.tree import Global

__all__ = ["Emitter", "unwritable"]

_ENCODE: Final = Global("_codecs", "encode")
_ORDERED_DICT: Final = Global("collections", "OrderedDict")


def unwritable(why: str) -> StorageError:
    what = "the checkpoint cannot be written as a torch file"
    return StorageError("CKM718", what, why=why, fix="remove the entry that holds it")


class Emitter:
    """A pickle in the making.

    memo      the index of what was written: text, bytes and names by value, containers by id
    protocol  2, or 4 once something needed it
    """

    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[object, int] = {}
        self.protocol = 2

    def finished(self) -> bytes:
        return bytes((0x80, self.protocol)) + bytes(self.out) + b"."

    def integer(self, value: int) -> None:
        if 0 <= value < 0x100:
            self.out += b"K" + value.to_bytes(1, "little")
        elif 0 <= value < 0x10000:
            self.out += b"M" + value.to_bytes(2, "little")
        elif -(2**31) <= value < 2**31:
            self.out += b"J" + value.to_bytes(4, "little", signed=True)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            short = len(raw) < 0x100
            self.out += b"\x8a" if short else b"\x8b"
            self.out += len(raw).to_bytes(1 if short else 4, "little") + raw

    def shared(self, node: str | bytes | Global) -> None:
        """Text, bytes and names are one by their value."""
        if node in self.memo:
            self.get(self.memo[node])
        elif isinstance(node, Global):
            self.name(node)
        elif isinstance(node, str):
            self.text(node)
            self.put(node)
        else:
            self.name(_ENCODE)
            self.text(node.decode("latin-1"))
            self.shared("latin1")
            self.out += b"\x86R"
            self.put(node)

    def text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        if len(raw) >= 2**32:
            raise unwritable("a text of 4 GiB and more")
        self.out += b"X" + len(raw).to_bytes(4, "little") + raw

    def name(self, value: Global) -> None:
        if value in self.memo:
            self.get(self.memo[value])
            return
        if "." in value.name:
            self.protocol = 4
        self.out += f"c{value.module}\n{value.name}\n".encode()
        self.put(value)

    # --- the memo ---------------------------------------------------------------------------

    def put(self, key: object) -> None:
        index = self.memo[key] = len(self.memo)
        self.out += b"q" + bytes((index,)) if index < 256 else b"r" + index.to_bytes(4, "little")

    def get(self, index: int) -> None:
        self.out += b"h" + bytes((index,)) if index < 256 else b"j" + index.to_bytes(4, "little")

    def counts(self, numbers: tuple[int, ...]) -> None:
        self.out += b"("
        for number in numbers:
            self.integer(number)
        self.out += b"t"

    def hooks(self) -> None:
        """torch wants an empty OrderedDict where backward hooks once were."""
        self.name(_ORDERED_DICT)
        self.out += b")R"
