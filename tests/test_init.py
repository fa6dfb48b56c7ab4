"""Initialisers: torch's names and formulas, our own values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ckmigrate import init
from ckmigrate.errors import MigrationError
from ckmigrate.execute.random import draw
from ckmigrate.expr import Fill, Random
from ckmigrate.init import Initialiser
from ckmigrate.spec import DType, TensorSpec

SHAPES = [(64, 32), (32, 16, 3, 3), (16, 8, 5)]


def numbers(value: Initialiser, shape: tuple[int, ...]) -> Random:
    expr = value.build(TensorSpec(DType.F64, shape), "key")
    assert isinstance(expr, Random)
    return expr


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("a", [0.0, 1.0, math.sqrt(5)])
def test_kaiming_has_the_bounds_of_torch(shape: tuple[int, ...], a: float) -> None:
    fan = torch.nn.init._calculate_correct_fan(torch.empty(shape), "fan_in")
    std = torch.nn.init.calculate_gain("leaky_relu", a) / math.sqrt(fan)
    low, high = numbers(init.kaiming_uniform(a), shape).numbers
    assert high == pytest.approx(math.sqrt(3) * std, rel=1e-14)
    assert low == -high
    assert numbers(init.kaiming_normal(a), shape).numbers == pytest.approx((0, std), rel=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_xavier_has_the_bounds_of_torch(shape: tuple[int, ...]) -> None:
    fans = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    std = 1.7 * math.sqrt(2 / sum(fans))
    high = numbers(init.xavier_uniform(1.7), shape).numbers[1]
    assert high == pytest.approx(math.sqrt(3) * std, rel=1e-14)
    assert numbers(init.xavier_normal(1.7), shape).numbers == pytest.approx((0, std), rel=1e-14)


@pytest.mark.parametrize("name", ["kaiming_uniform", "kaiming_normal", "xavier_uniform"])
def test_values_spread_as_torchs_do(name: str) -> None:
    theirs = torch.empty(64, 48)
    getattr(torch.nn.init, name + "_")(theirs, generator=torch.Generator().manual_seed(0))
    ours = np.frombuffer(draw(numbers(getattr(init, name)(), (64, 48))))
    assert abs(float(theirs.std()) / ours.std() - 1) < 0.05
    if name.endswith("uniform"):
        assert abs(float(theirs.abs().max()) / np.abs(ours).max() - 1) < 0.01


def test_a_linear_layers_own_start() -> None:
    bound = numbers(init.kaiming_uniform(math.sqrt(5)), (10, 256)).numbers[1]
    assert bound == pytest.approx(1 / math.sqrt(256))


def test_constants_are_fills_of_any_dtype() -> None:
    spec = TensorSpec(DType.I16, (2,))
    assert init.zeros().build(spec, "k") == Fill(b"\0\0", spec)
    assert init.ones().build(spec, "k") == Fill(b"\1\0", spec)
    assert init.full(-2).build(spec, "k") == Fill(b"\xfe\xff", spec)
    narrow = TensorSpec(DType.F4, (2,))
    assert init.zeros().build(narrow, "k") == Fill(b"\0", narrow)


def test_empty_random_tensors_are_constants() -> None:
    for value in (init.normal(), init.orthogonal(), init.eye(), init.kaiming_uniform()):
        for shape in ((0, 3), (3, 0)):
            assert isinstance(value.build(TensorSpec(DType.F32, shape), "k"), Fill)


def test_the_stream_is_named_by_seed_and_key() -> None:
    assert numbers(init.normal(seed=3), (2,)).key == "3/key"


@pytest.mark.parametrize(
    ("value", "spec", "word"),
    [
        (init.normal(), TensorSpec(DType.I8, (2,)), "float32"),
        (init.normal(), TensorSpec(DType.F8_E4M3, (2,)), "float32"),
        (init.full(1j), TensorSpec(DType.F32, (2,)), "complex"),
        (init.full(10**400), TensorSpec(DType.F32, (2,)), "large"),
        (init.ones(), TensorSpec(DType.F4, (2,)), "only 0"),
        (init.zeros(), TensorSpec(DType.F8_E8M0, (2,)), "power of two"),
        (init.xavier_normal(), TensorSpec(DType.F32, (2,)), "2 dimensions"),
        (init.eye(), TensorSpec(DType.F32, (2, 2, 2)), "two dimensions"),
    ],
)
def test_what_cannot_be_made_says_why(value: Initialiser, spec: TensorSpec, word: str) -> None:
    with pytest.raises(MigrationError) as caught:
        value.build(spec, "k")
    assert caught.value.code == "CKM527"
    assert word in str(caught.value.why)
    assert str(spec) in caught.value.what


def test_an_initialiser_prints_as_it_is_written() -> None:
    assert str(init.full(1e-5)) == "full(1e-05)"
    assert str(init.normal(0.0, 0.02)) == "normal(0, 0.02)"
    assert str(init.zeros()) == "zeros()"
