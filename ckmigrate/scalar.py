"""One element of any dtype ↔ a Python number, exactly as IEEE 754 and the OCP formats define it.

Small floats are read from and written to their bit fields (exponent and mantissa widths, bias,
which codes are infinite or NaN): fills and constant checks must work without torch.
Sources: IEEE 754-2019; bfloat16 as the upper half of binary32; the OCP 8-bit floating point
specification (E4M3, E5M2) and its microscaling companion (E8M0); the FNUZ variants of the graphcore
and AMD proposal (bias one larger, no negative zero, 0x80 is NaN).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

from ckmigrate.spec import DType

__all__ = ["Number", "cast_element", "decode_element", "encode_element"]

Number = bool | int | float | complex

_INTEGERS = {
    DType.U8: "B",
    DType.I8: "b",
    DType.U16: "H",
    DType.I16: "h",
    DType.U32: "I",
    DType.I32: "i",
    DType.U64: "Q",
    DType.I64: "q",
}
_IEEE = {DType.F16: "e", DType.F32: "f", DType.F64: "d"}


@dataclass(frozen=True, slots=True)
class _Small:
    """exponent and mantissa widths, bias, and how the format spends its top codes."""

    exponent: int
    mantissa: int
    bias: int
    special: Literal["ieee", "fn", "fnuz"]


_SMALL = {
    DType.BF16: _Small(8, 7, 127, "ieee"),
    DType.F16: _Small(5, 10, 15, "ieee"),
    DType.F32: _Small(8, 23, 127, "ieee"),
    DType.F8_E5M2: _Small(5, 2, 15, "ieee"),
    DType.F8_E4M3: _Small(4, 3, 7, "fn"),
    DType.F8_E5M2FNUZ: _Small(5, 2, 16, "fnuz"),
    DType.F8_E4M3FNUZ: _Small(4, 3, 8, "fnuz"),
}


def encode_element(value: Number, dtype: DType) -> bytes:
    """Little-endian bytes of one element, rounded to nearest even.

    ValueError where the dtype cannot hold the value: a fraction in an integer, an integer out of
    range, a complex number in a real dtype, anything but 0 in a dtype narrower than a byte.
    """
    if dtype.bits < 8:
        if value != 0:
            raise ValueError(f"{dtype} has no byte of its own; only 0 can be filled in")
        return b"\0"
    if dtype is DType.BOOL:
        if value not in (0, 1):
            raise ValueError(f"{value!r} is not a bool")
        return bytes([int(bool(value))])
    if dtype in (DType.C64, DType.C128):
        part = DType.F32 if dtype is DType.C64 else DType.F64
        number = complex(value)
        return encode_element(number.real, part) + encode_element(number.imag, part)
    if isinstance(value, complex):
        raise ValueError(f"{value!r} is complex and {dtype} is not")
    if dtype in _INTEGERS:
        return _encode_integer(value, dtype)
    return _encode_float(float(value), dtype)


def _encode_integer(value: float, dtype: DType) -> bytes:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value!r} is not a whole number, {dtype} holds nothing else")
    try:
        return struct.pack("<" + _INTEGERS[dtype], int(value))
    except struct.error:
        raise ValueError(f"{value!r} is out of range for {dtype}") from None


def _encode_float(value: float, dtype: DType) -> bytes:
    if dtype is DType.F64:
        return struct.pack("<d", value)
    if dtype is DType.F8_E8M0:
        return _encode_exponent(value)
    form = _SMALL[dtype]
    width = dtype.bits // 8
    sign = 1 if math.copysign(1.0, value) < 0 else 0
    top = 1 << (form.exponent + form.mantissa)
    if math.isnan(value):
        return _nan(form, top).to_bytes(width, "little")
    code = _magnitude(abs(value), form)
    if form.special == "fnuz" and code in (0, top):
        sign = 0
    return (sign * top + code).to_bytes(width, "little")


def _nan(form: _Small, top: int) -> int:
    if form.special == "fnuz":
        return top
    if form.special == "fn":
        return top - 1
    return ((1 << form.exponent) - 1 << form.mantissa) | (1 << form.mantissa - 1)


def _magnitude(value: float, form: _Small) -> int:
    """Code of a non-negative number. Past the largest finite one: infinity where the format has it,
    the largest in E4M3 (it saturates in torch), NaN in the FNUZ formats."""
    infinite = (1 << form.exponent) - 1 << form.mantissa
    largest, overflow = {
        "ieee": (infinite - 1, infinite),
        "fn": (infinite + (1 << form.mantissa) - 2,) * 2,
        "fnuz": (infinite + (1 << form.mantissa) - 1, infinite + (1 << form.mantissa)),
    }[form.special]
    if math.isinf(value):
        return overflow
    if value == 0:
        return 0
    from fractions import Fraction  # slow to import, and needed by fills of small floats only

    exponent = max(math.frexp(value)[1] - 1, 1 - form.bias)
    scaled = Fraction(value) / Fraction(2) ** (exponent - form.mantissa)
    code = round(scaled) + (exponent + form.bias - 1 << form.mantissa)
    return code if code <= largest else overflow


def _encode_exponent(value: float) -> bytes:
    if math.isnan(value):
        return b"\xff"
    mantissa, exponent = math.frexp(value)
    if mantissa != 0.5 or not -127 <= exponent - 1 <= 127:
        raise ValueError(f"{value!r} is not a power of two between 2^-127 and 2^127")
    return bytes([exponent - 1 + 127])


def decode_element(element: bytes, dtype: DType) -> Number:
    """The number that one element's little-endian bytes stand for."""
    if dtype.bits < 8:
        return 0
    if dtype is DType.BOOL:
        return element != b"\0"
    if dtype in _INTEGERS:
        return int(struct.unpack("<" + _INTEGERS[dtype], element)[0])
    if dtype in (DType.C64, DType.C128):
        half = len(element) // 2
        part = DType.F32 if dtype is DType.C64 else DType.F64
        real, imaginary = decode_element(element[:half], part), decode_element(element[half:], part)
        return complex(float(real.real), float(imaginary.real))
    if dtype in _IEEE:
        return float(struct.unpack("<" + _IEEE[dtype], element)[0])
    return _decode_small(int.from_bytes(element, "little"), dtype)


def _decode_small(code: int, dtype: DType) -> float:
    if dtype is DType.F8_E8M0:
        return math.nan if code == 0xFF else 2.0 ** (code - 127)
    form = _SMALL[dtype]
    top = 1 << (form.exponent + form.mantissa)
    sign, magnitude = (-1.0 if code & top else 1.0), code & (top - 1)
    exponent, mantissa = magnitude >> form.mantissa, magnitude & ((1 << form.mantissa) - 1)
    last = (1 << form.exponent) - 1
    if form.special == "fnuz" and code == top:
        return math.nan
    if form.special == "fn" and magnitude == top - 1:
        return math.nan
    if form.special == "ieee" and exponent == last:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - form.bias - form.mantissa)
    return sign * math.ldexp(mantissa + (1 << form.mantissa), exponent - form.bias - form.mantissa)


def cast_element(element: bytes, old: DType, new: DType) -> bytes:
    """One element in another dtype, as torch converts it: towards zero into integers.

    ValueError where no value of the new dtype fits (a NaN in an integer).
    """
    value = decode_element(element, old)
    if new is DType.BOOL:
        return encode_element(value != 0, new)
    if isinstance(value, complex) and new.kind != "complex":
        value = value.real
    if new.kind == "int" and isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} has no value in {new}")
        value = math.trunc(value)
    return encode_element(value, new)
