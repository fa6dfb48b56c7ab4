"""Inert values as JSON-compatible ones, for display; not for reading back."""

from __future__ import annotations

import math
from typing import Final

from ckmigrate.formats.tree import Global, Object, Storage, Tensor

__all__ = ["plain"]

_CLASS: Final = "__class__"
_SHOWN_BYTES: Final = 32


def plain(value: object) -> object:
    """The value as dicts with text keys, lists, text, numbers and None.

    What JSON has no word for becomes a dict with "__class__": an object with its attributes and
    entries beside it (arguments under "__args__"), a tensor with dtype and shape, bytes with their
    size and beginning. A container inside itself becomes {"__class__": "cycle"}.
    """
    return _plain(value, frozenset())


def _plain(value: object, above: frozenset[int]) -> object:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if id(value) in above:
        return {_CLASS: "cycle"}
    inner = above | {id(value)}
    if isinstance(value, dict):
        return {_key(key): _plain(part, inner) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, inner) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(part, inner) for part in value), key=repr)
    return _object(value, inner) if isinstance(value, Object) else _leaf(value)


def _leaf(value: object) -> object:
    match value:
        case bytes() | bytearray():
            begin = bytes(value[:_SHOWN_BYTES]).hex()
            return {_CLASS: type(value).__name__, "size": len(value), "begin": begin}
        case complex():
            parts = {
                "real": _plain(value.real, frozenset()),
                "imag": _plain(value.imag, frozenset()),
            }
            return {_CLASS: "complex", **parts}
        case Tensor():
            shape = list(value.spec.shape)
            return {_CLASS: "torch.Tensor", "dtype": str(value.spec.dtype), "shape": shape}
        case Storage():
            return {_CLASS: "torch.Storage", "dtype": str(value.dtype), "nbytes": value.nbytes}
        case Global():
            return str(value)
    return {_CLASS: type(value).__name__}


def _object(value: Object, above: frozenset[int]) -> dict[str, object]:
    shown: dict[str, object] = {_CLASS: str(value.factory)}
    if value.args:
        shown["__args__"] = [_plain(part, above) for part in value.args]
    if value.items:
        shown["__items__"] = [_plain(part, above) for part in value.items]
    attributes = value.state if isinstance(value.state, dict) else {}
    if value.has_state and not isinstance(value.state, dict):
        shown["__state__"] = _plain(value.state, above)
    for key, part in [*(value.kwargs or {}).items(), *attributes.items(), *value.entries.items()]:
        shown[_key(key)] = _plain(part, above)
    return shown


def _key(key: object) -> str:
    return key if isinstance(key, str) else repr(_plain(key, frozenset()))
