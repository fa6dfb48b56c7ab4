"""The generator: fixed values, whatever the chunk, machine or thread; and the right moments."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from ckmigrate.execute import random as random_module
from ckmigrate.execute.random import draw
from ckmigrate.expr import Random, RandomKind
from ckmigrate.spec import DType, TensorSpec


def drawn(
    kind: RandomKind,
    numbers: tuple[float, ...],
    shape: tuple[int, ...],
    dtype: DType = DType.F64,
    key: str = "0/7c1e9a04f2/head.weight",
) -> bytes:
    return draw(Random(kind, numbers, key, TensorSpec(dtype, shape)))


GOLDEN = {
    ("uniform", (-1.0, 1.0), (64, 33), DType.F32): "17a31ad63e6bf8f6",
    ("uniform", (0.0, 1.0), (1000,), DType.F64): "74ce1001b3be2ad3",
    ("normal", (0.0, 1.0), (64, 33), DType.F32): "a76f3d98828ed77f",
    ("normal", (0.0, 1.0), (100_000,), DType.F64): "3c950bdd6a11d915",
    ("normal", (0.5, 0.02), (1000,), DType.BF16): "73b876785a21561a",
    ("normal", (0.0, 1.0), (1000,), DType.F16): "14c88a73160e6dad",
    ("orthogonal", (1.0,), (16, 33), DType.F64): "ff1a41aeb5340319",
    ("orthogonal", (1.4,), (33, 4, 4), DType.F32): "9ab8023f40ed3c28",
    ("eye", (), (5, 7), DType.BF16): "f7af037fdfdaaa61",
}
"""Digests of the bytes: they must never change, or checkpoints would differ between releases."""


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case[0]}-{case[3]}")
def test_the_values_are_what_they_have_always_been(
    case: tuple[RandomKind, tuple[float, ...], tuple[int, ...], DType],
) -> None:
    assert hashlib.sha256(drawn(*case)).hexdigest()[:16] == GOLDEN[case]


def test_the_first_values_are_known() -> None:
    values = np.frombuffer(drawn("uniform", (0.0, 1.0), (3,)))
    digest = hashlib.sha256(b"0/7c1e9a04f2/head.weight").digest()
    one, two = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    for place, value in enumerate(values, 1):
        bits = _mix(_mix((one + place * 0x9E3779B97F4A7C15) % 2**64) ^ two)
        assert value == (bits >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_values_do_not_depend_on_the_block(
    kind: RandomKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(kind, (0.0, 1.0), (50, 41))
    monkeypatch.setattr(random_module, "_BLOCK", 17)
    assert drawn(kind, (0.0, 1.0), (50, 41)) == whole


def test_values_do_not_depend_on_the_shape_but_on_the_key() -> None:
    assert drawn("normal", (0.0, 1.0), (6,)) == drawn("normal", (0.0, 1.0), (2, 3))
    assert drawn("normal", (0.0, 1.0), (6,)) != drawn("normal", (0.0, 1.0), (6,), key="1/x")


def test_moments_of_the_normal_distribution() -> None:
    values = np.frombuffer(drawn("normal", (0.0, 1.0), (400_000,)))
    assert abs(values.mean()) < 0.006
    assert abs(values.std() - 1) < 0.005
    assert abs((values**3).mean()) < 0.02
    assert abs((values**4).mean() - 3) < 0.06
    for limit in (0.5, 1.0, 2.0, 3.0):
        share = (values < limit).mean()
        exact = 0.5 * (1 + math.erf(limit / math.sqrt(2)))
        assert abs(share - exact) < 0.003
    assert np.isfinite(values).all()
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.006


def test_moments_of_the_uniform_distribution() -> None:
    values = np.frombuffer(drawn("uniform", (-2.0, 3.0), (200_000,)))
    assert values.min() >= -2
    assert values.max() < 3
    assert abs(values.mean() - 0.5) < 0.015
    assert abs(values.var() - 25 / 12) < 0.02


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (6, 2, 3), (1, 4), (4, 1), (1, 1)])
def test_orthogonal_matrices_are_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = np.frombuffer(drawn("orthogonal", (2.0,), shape)).reshape(shape[0], -1)
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    assert np.allclose(small @ small.T, 4 * np.eye(len(small)), atol=1e-12)


def test_the_identity_may_be_wide() -> None:
    matrix = np.frombuffer(drawn("eye", (), (2, 3), DType.F32), "<f4").reshape(2, 3)
    assert (matrix == np.eye(2, 3)).all()


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    import torch

    single = np.frombuffer(drawn("normal", (0.0, 1.0), (5000,), DType.F32), "<f4")
    expected = torch.from_numpy(single.copy()).bfloat16().view(torch.uint8).numpy().tobytes()
    assert drawn("normal", (0.0, 1.0), (5000,), DType.BF16) == expected


def test_what_lies_beyond_the_dtype_is_infinite_without_a_warning() -> None:
    values = np.frombuffer(drawn("normal", (0.0, 1e9), (10,), DType.F16), "<f2")
    assert np.isinf(values).all()


def test_the_logarithm_is_exact_to_the_last_digits() -> None:
    x = np.concatenate([2.0 ** -np.arange(1, 54), np.linspace(1e-9, 1, 10_000, endpoint=False)])
    assert np.allclose(random_module._log(x), np.log(x), rtol=4e-16, atol=1e-16)
