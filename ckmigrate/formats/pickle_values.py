"""Values that a pickle makes by a call or a line of text, and the checks on what becomes a key.

Pure but for `Budget`, which bounds the copying that a few bytes of pickle can ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.tree import Global, Object, Storage, Tensor

__all__ = [
    "Budget",
    "check_key",
    "check_members",
    "evaluate",
    "integer",
    "line_float",
    "line_int",
    "ordered_pairs",
    "text_of",
]

_LARGEST_INT: Final = 1024
_KEY_NODES: Final = 1000
_LATIN1: Final = frozenset({"latin1", "latin-1"})
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,2400}L?")
_DECIMAL: Final = re.compile(r"[+-]?([0-9.]{1,400}(e[+-]?[0-9]{1,5})?|inf|nan)", re.IGNORECASE)
_ATOMS: Final = frozenset({str, bytes, bool, float, complex, type(None), Global, Object})


class Budget:
    """Work that may still be done beyond reading each byte once."""

    __slots__ = ("left",)

    def __init__(self, nbytes: int) -> None:
        self.left = 1_000_000 + 16 * nbytes

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise BadPickle("it copies the same values over and over")


def evaluate(function: Global, args: tuple[object, ...], budget: Budget) -> object:
    """The call of a builtin that stands for a value; BadPickle for arguments it would not have."""
    match function.name, args:
        case "encode", (str() as text, str() as coding) if coding in _LATIN1:
            return _encoded(text, budget)
        case "bytes", ():
            return b""
        case "bytearray", ():
            return bytearray()
        case "bytearray", (str() as text, str() as coding) if coding in _LATIN1:
            return bytearray(_encoded(text, budget))
        case "bytearray", (bytes() as raw,):
            budget.spend(len(raw))
            return bytearray(raw)
        case "set" | "frozenset", ():
            return set() if function.name == "set" else frozenset()
        case "set" | "frozenset", (list() | tuple() | set() | frozenset() as items,):
            check_members(items, budget)
            return set(items) if function.name == "set" else frozenset(items)
        case "complex", (float() | int() as real, float() | int() as imaginary):
            return _complex(real, imaginary)
    raise BadPickle(f"the arguments of {function} are not understood")


def ordered_pairs(args: tuple[object, ...], budget: Budget) -> list[object]:
    """Keys and values in turn, of the list of pairs that Python 2 makes an OrderedDict of."""
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        raise BadPickle("an OrderedDict is not made of pairs")
    budget.spend(len(args[0]))
    flat: list[object] = []
    for pair in args[0]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadPickle("an OrderedDict is not made of pairs")
        flat.extend(pair)
    return flat


def check_members(items: Iterable[object], budget: Budget) -> None:
    """A set has no order of its own; with a tensor in it, the same tree had no one spelling."""
    for item in items:
        check_key(item, budget)
        if isinstance(item, Tensor | Storage):
            raise BadPickle("a tensor in a set is not supported", code="CKM713")


def check_key(key: object, budget: Budget) -> None:
    """Refuse what has no hash, and what takes long to hash: huge or deeply nested tuples."""
    if type(key) is str or type(key) in _ATOMS:
        return
    queue: list[object] = [key]
    seen = 0
    while queue:
        node = queue.pop()
        seen += 1
        if isinstance(node, tuple | frozenset):
            queue.extend(node)
        elif type(node) is int:
            if node.bit_length() > 64:
                raise BadPickle("a key is a number of more than 64 bits")
        elif type(node) not in _ATOMS and not isinstance(node, Tensor | Storage):
            raise BadPickle(f"a key of type {type(node).__name__} cannot be hashed")
        if seen + len(queue) > _KEY_NODES:
            raise BadPickle(f"a key has more than {_KEY_NODES} parts")
    budget.spend(seen)


def integer(raw: bytes) -> int:
    """A two's complement number of any length, as LONG1 and LONG4 have it."""
    if len(raw) > _LARGEST_INT:
        raise BadPickle(f"an integer has {len(raw)} bytes, more than {_LARGEST_INT}")
    return int.from_bytes(raw, "little", signed=True)


def line_int(text: str) -> int | bool:
    if text in ("00", "01"):
        return text == "01"
    if not _DIGITS.fullmatch(text):
        raise BadPickle(f"{text!r:.40} is no integer")
    return int(text.removesuffix("L"))


def line_float(text: str) -> float:
    try:
        return float(text if _DECIMAL.fullmatch(text) else "?")
    except ValueError:
        raise BadPickle(f"{text!r:.40} is no number") from None


def text_of(raw: bytes, encoding: str = "utf-8") -> str:
    try:
        return raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise BadPickle(f"a text is not {encoding}") from None


def _encoded(text: str, budget: Budget) -> bytes:
    budget.spend(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise BadPickle("bytes have a value above 255") from None


def _complex(real: float, imaginary: float) -> complex:
    try:
        return complex(real, imaginary)
    except OverflowError:
        raise BadPickle("a complex number is too large") from None
