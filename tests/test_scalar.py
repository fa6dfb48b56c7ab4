"""One element ↔ a number, against torch for every dtype that both have."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.scalar import cast_element, decode_element, encode_element
from ckmigrate.spec import DType

FLOATS = [d for d in DType if d.kind == "float" and d.bits >= 8]
SMALL = [d for d in FLOATS if d.bits <= 16]
INTEGERS = [d for d in DType if d.kind == "int"]


def torch_type(dtype: DType) -> torch.dtype:
    found = getattr(torch, dtype.torch_name or "")
    assert isinstance(found, torch.dtype)
    return found


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_every_code_decodes_as_in_torch(dtype: DType) -> None:
    width = dtype.bits // 8
    codes = b"".join(code.to_bytes(width, "little") for code in range(1 << dtype.bits))
    values = torch.frombuffer(bytearray(codes), dtype=torch_type(dtype)).double().tolist()
    for code, value in enumerate(values):
        found = decode_element(code.to_bytes(width, "little"), dtype)
        assert isinstance(found, float)
        assert struct.pack("<d", found) == struct.pack("<d", value) or (
            math.isnan(found) and math.isnan(value)
        )


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_every_finite_code_encodes_to_itself(dtype: DType) -> None:
    width = dtype.bits // 8
    for code in range(1 << dtype.bits):
        element = code.to_bytes(width, "little")
        value = decode_element(element, dtype)
        if not math.isnan(value.real):
            assert encode_element(value, dtype) == element


@pytest.mark.parametrize("dtype", [d for d in FLOATS if d is not DType.F8_E8M0], ids=str)
@given(value=st.floats(width=32) | st.floats(-500, 500, width=32))
def test_encoding_rounds_as_torch_does(dtype: DType, value: float) -> None:
    expected = raw(torch.tensor([value], dtype=torch.float32).to(torch_type(dtype)))
    found = encode_element(value, dtype)
    if math.isnan(value):
        assert math.isnan(decode_element(found, dtype).real)
    else:
        assert found == expected


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_halves_between_codes_go_to_the_even_one(dtype: DType) -> None:
    if dtype is DType.F8_E8M0:
        return
    width = dtype.bits // 8
    for code in range(min(1 << (dtype.bits - 1), 2000) - 1):
        low, high = (
            decode_element(c.to_bytes(width, "little"), dtype).real for c in (code, code + 1)
        )
        if math.isfinite(low) and math.isfinite(high):
            even = code if code % 2 == 0 else code + 1
            found = encode_element((low + high) / 2, dtype)
            assert int.from_bytes(found, "little") == even


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_at_their_limits(dtype: DType) -> None:
    info = torch.iinfo(torch_type(dtype))
    for value in (info.min, info.max):
        element = encode_element(value, dtype)
        assert len(element) == dtype.bits // 8
        assert decode_element(element, dtype) == value
    for value in (info.min - 1, info.max + 1):
        with pytest.raises(ValueError, match="out of range"):
            encode_element(value, dtype)


def test_what_a_dtype_cannot_hold_is_a_value_error() -> None:
    for value, dtype in (
        (0.5, DType.I8),
        (math.nan, DType.I8),
        (math.inf, DType.I64),
        (1j, DType.F32),
        (2, DType.BOOL),
        (1, DType.F4),
        (3.0, DType.F8_E8M0),
        (0.0, DType.F8_E8M0),
        (-1.0, DType.F8_E8M0),
        (2.0**128, DType.F8_E8M0),
    ):
        with pytest.raises(ValueError):
            encode_element(value, dtype)


def test_complex_numbers_are_two_floats() -> None:
    assert encode_element(1 - 2j, DType.C64) == struct.pack("<ff", 1, -2)
    assert decode_element(struct.pack("<dd", 1, -2), DType.C128) == 1 - 2j


def test_the_fnuz_formats_have_no_negative_zero() -> None:
    for dtype in (DType.F8_E4M3FNUZ, DType.F8_E5M2FNUZ):
        assert encode_element(-0.0, dtype) == b"\0"
        assert encode_element(math.nan, dtype) == b"\x80"


CASTS = [
    (old, new)
    for old in DType
    for new in DType
    if min(old.bits, new.bits) >= 8 and DType.F8_E8M0 not in (old, new) and old != new
]


@pytest.mark.parametrize(("old", "new"), CASTS, ids=str)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_constants_are_cast_as_torch_casts(old: DType, new: DType) -> None:
    numbers = [0, 1] if old is DType.BOOL else [0, 1, 2, 3, 100, 57]
    if old.kind != "int" and old is not DType.BOOL:
        numbers = [*numbers, 2.5, 0.75]  # type: ignore[list-item]
    for number in numbers:
        element = encode_element(number, old)
        tensor = torch.frombuffer(bytearray(element), dtype=torch_type(old))
        assert cast_element(element, old, new) == raw(tensor.to(torch_type(new)))
