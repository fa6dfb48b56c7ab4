"""Synthetic elements: told apart, equal where claims want it, traced to where they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.element_bits import bits_of, packed, pool_type
from ckmigrate.expr import Expr, Source, concat, fill, permute, reshape, slice_
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check
from ckmigrate.synthetic import NEW, element_numbers, numbering, synthetic_values

F32 = DType.F32


def source(name: str, *shape: int, dtype: DType = F32) -> Source:
    return Source(name, TensorSpec(dtype, shape))


@pytest.mark.parametrize("dtype", [d for d in DType if d.bits >= 32])
def test_wide_dtypes_have_a_value_for_each_element(dtype: DType) -> None:
    bits = bits_of(dtype, np.arange(100_000, dtype=np.uint64))
    assert len({item.tobytes() for item in bits}) == 100_000


@pytest.mark.parametrize(
    ("dtype", "room"),
    [
        (DType.F16, 61417),
        (DType.BF16, 65011),
        (DType.I16, 65521),
        (DType.U8, 251),
        (DType.F8_E4M3, 251),
        (DType.F8_E5M2, 241),
        (DType.F4, 13),
    ],
)
def test_narrow_dtypes_repeat_as_late_as_documented(dtype: DType, room: int) -> None:
    bits = bits_of(dtype, np.arange(3 * room, dtype=np.uint64))
    assert len(set(bits[:room].tolist())) == room
    assert (bits[:room] == bits[room : 2 * room]).all()


@pytest.mark.parametrize("dtype", [d for d in DType if d.kind == "float" and d.bits >= 8])
def test_floats_are_finite(dtype: DType) -> None:
    bits = bits_of(dtype, np.arange(70_000, dtype=np.uint64))
    kind = getattr(torch, dtype.torch_name or "")
    plain = torch.from_numpy(bits.view(np.uint8)).view(kind)
    assert torch.isfinite(plain.to(torch.float64)).all()


def test_elements_of_one_dtype_differ_across_tensors() -> None:
    schema = {n: TensorSpec(F32, (3, 5)) for n in "abc"}
    values = synthetic_values(schema)
    joined = np.concatenate([values.items(Source(n, spec)) for n, spec in schema.items()])
    assert len(set(joined.tolist())) == 45


def test_tied_names_are_one_tensor() -> None:
    schema = {"a": TensorSpec(F32, (2,)), "b": TensorSpec(F32, (2,))}
    assert synthetic_values(schema, ties=(("a", "b"),)).numbering.total == 2


def test_claims_are_met() -> None:
    a, b, c = (source(name, 4) for name in "abc")
    one = fill(np.float32(7).tobytes(), TensorSpec(F32, (2,)))
    checks = (
        Check(a, b, "a is b"),
        Check(slice_(b, 0, 0, 2), one, "b begins with 7"),
        Check(slice_(b, 0, 2, 4), slice_(c, 0, 0, 2), "c goes on as b"),
    )
    values = synthetic_values({x.name: x.spec for x in (a, b, c)}, checks=checks)
    assert not values.unmet
    for check in checks:
        assert values.data(check.left) == values.data(check.right)
        assert not values.unequal(check.left, check.right).any()
    assert values.unequal(a, c).any()
    found = np.frombuffer(values.data(a), np.float32)
    assert found[:2].tolist() == [7, 7]
    assert len(set(found[2:].tolist())) == 2


def test_elements_are_followed_through_views_and_seams() -> None:
    a, b = source("a", 2, 3), source("b", 2, 3)
    expr = reshape(permute(concat((a, b), 1), (1, 0)), (3, 4))
    left, right = np.arange(6).reshape(2, 3), np.arange(6, 12).reshape(2, 3)
    wanted = np.concatenate([left, right], axis=1).T.reshape(3, 4)
    found = element_numbers(expr, numbering({"a": a.spec, "b": b.spec}), [])
    assert (found == wanted).all()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_bytes_of_an_expression_are_those_of_numpy(shape: list[int], random: object) -> None:
    dims = list(range(len(shape)))
    random.shuffle(dims)  # type: ignore[attr-defined]
    a = source("a", *shape)
    expr: Expr = permute(a, tuple(dims))
    values = synthetic_values({"a": a.spec})
    wanted = np.transpose(values.items(a).reshape(shape), dims)
    assert values.data(expr) == wanted.tobytes()


def test_four_bit_elements_share_bytes_from_the_low_half() -> None:
    assert packed(np.array([1, 2, 3], np.uint8), DType.F4) == bytes([0x21, 0x03])
    assert pool_type(DType.F4) == np.uint8


def test_new_values_have_no_number() -> None:
    from ckmigrate.expr import cast

    half = cast(source("a", 2), DType.F16)
    counted = numbering({"a": TensorSpec(F32, (2,))})
    assert element_numbers(half, counted, []).tolist() == [NEW, NEW]
    assert element_numbers(half, counted, [], through_casts=True).tolist() == [0, 1]
