"""The bits of synthetic elements: different ones for different numbers, as far as a dtype has room.

32 and 64 bit dtypes have room for 2^30 (float values begin at 1 and are finite). Narrower ones
repeat after a prime number of elements, so that no row of a usual width looks like the next:

    16 bit integers 65521, F16 61417, BF16 65011     8 bit kinds 251 or 241     F4 13

BOOL is one bit of a hash of the number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ckmigrate.execute.items import item_type
from ckmigrate.spec import DType

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["bits_of", "packed", "pool_type"]

_ROOM = {
    **dict.fromkeys((DType.U8, DType.I8), 251),
    **dict.fromkeys((DType.F8_E4M3, DType.F8_E8M0, DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ), 251),
    DType.F8_E5M2: 241,
    DType.F4: 13,
    **dict.fromkeys((DType.I16, DType.U16), 65521),
    DType.F16: 61417,
    DType.BF16: 65011,
}
_WIDE_ROOM = 1 << 30
_HALF_MINIFLOAT = {DType.F8_E4M3: 126, DType.F8_E5M2: 123, DType.F8_E4M3FNUZ: 127}
_HALF_MINIFLOAT[DType.F8_E5M2FNUZ] = 127
_HALF_FLOAT = {DType.F16: (0x0400, 30720, 0x3C00), DType.BF16: (0x0080, 32512, 0x3F80)}


def bits_of(dtype: DType, number: Array) -> Array:
    """The bits of elements with these numbers."""
    import numpy as np

    room = _ROOM.get(dtype, _WIDE_ROOM)
    if dtype is DType.BOOL:
        return ((number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)).astype(np.uint8)
    make: Callable[[Array], Array] = _of_kind(dtype)
    return make(number % np.uint64(room)).view(pool_type(dtype))


def _of_kind(dtype: DType) -> Callable[[Array], Array]:
    import numpy as np

    def wide(k: Array) -> Array:
        return (k + np.uint64(0x3F800000)).astype(np.uint32).view(np.float32)

    def signed(k: Array, half: int, first: int, start: int, sign: int) -> Array:
        size = (start - first + k % np.uint64(half)) % np.uint64(half) + np.uint64(first)
        return size + np.uint64(sign) * (k >= np.uint64(half))

    if dtype in _HALF_FLOAT:
        first, half, start = _HALF_FLOAT[dtype]
        return lambda k: signed(k, half, first, start, 0x8000).astype(np.uint16)
    if dtype in _HALF_MINIFLOAT:
        half = _HALF_MINIFLOAT[dtype]
        return lambda k: signed(k, half, 1, 1, 0x80).astype(np.uint8)
    match dtype:
        case DType.F32:
            return wide
        case DType.F64:
            return lambda k: wide(k).astype(np.float64)
        case DType.C64:
            return lambda k: wide(k).astype(np.complex64)
        case DType.C128:
            return lambda k: wide(k).astype(np.complex128)
    width = pool_type(dtype)
    return lambda k: (k + np.uint64(dtype is not DType.F8_E8M0)).astype(width)


def packed(items: Array, dtype: DType) -> bytes:
    """Items as the bytes of a tensor; two F4 elements share a byte, the first in its low half."""
    import numpy as np

    if dtype is DType.F4:
        pairs = np.append(items, np.zeros(len(items) % 2, np.uint8)).reshape(-1, 2)
        items = (pairs[:, 0] | (pairs[:, 1] << 4)).astype(np.uint8)
    data: bytes = items.tobytes()
    return data


def pool_type(dtype: DType) -> np.dtype[Any]:
    """The opaque type of one element in a pool."""
    import numpy as np

    return np.dtype(np.uint8) if dtype.bits < 8 else item_type(dtype)
