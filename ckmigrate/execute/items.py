"""Arrays of opaque items, and moving them: no bit of an element is ever looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ckmigrate.spec import DType

if TYPE_CHECKING:
    import numpy as np

    Items = np.ndarray[Any, np.dtype[Any]]

__all__ = ["contiguous", "item_type", "joined"]

_TILED_FROM: Final = 1 << 18
_ALONG, _ACROSS = 256, 64
"""Items of a tile along the lines of the source and of the result: both then stay in the cache."""


def item_type(dtype: DType) -> np.dtype[Any]:
    """The opaque numpy type that is as wide as one element."""
    import numpy as np

    if dtype.bits < 8:
        raise AssertionError(f"{dtype} elements have no item type")
    width = dtype.bits // 8
    return np.dtype(f"V{width}" if width > 8 else f"u{width}")


def contiguous(value: Items) -> Items:
    """The array itself where it is in row-major order, else a copy that is."""
    import numpy as np

    if value.flags.c_contiguous:
        return value
    result = np.empty(value.shape, value.dtype)
    _move(value, result)
    return result


def joined(parts: Sequence[Items], dim: int) -> Items:
    """The parts one after another along a dimension, as a new array."""
    import numpy as np

    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    result, at = np.empty(shape, parts[0].dtype), 0
    for part in parts:
        place = (slice(None),) * dim + (slice(at, at + part.shape[dim]),)
        _move(part, result[place])
        at += part.shape[dim]
    return result


def _move(value: Items, result: Items) -> None:
    """Copy into an array of the same shape; where lines of one lie across those of the other, in
    tiles, since whole lines would throw each other out of the cache."""
    for tile in _tiles(value) if value.nbytes >= _TILED_FROM else ((),):
        result[tile] = value[tile]


def _tiles(value: Items) -> Iterator[tuple[slice, ...]]:
    along = min(range(value.ndim), key=lambda dim: _step(value, dim), default=0)
    if value.ndim < 2 or along == value.ndim - 1:
        yield ()
        return
    whole = (slice(None),) * (value.ndim - along - 2)
    for begin in range(0, value.shape[along], _ALONG):
        for across in range(0, value.shape[-1], _ACROSS):
            before = (slice(None),) * along
            yield (
                *before,
                slice(begin, begin + _ALONG),
                *whole,
                slice(across, across + _ACROSS),
            )


def _step(value: Items, dim: int) -> tuple[int, int]:
    """How far apart neighbours along a dimension lie; a dimension of one has no neighbours, and
    the last of several equal ones is what the result runs along anyhow."""
    return (abs(value.strides[dim]) if value.shape[dim] > 1 else 1 << 62), -dim
