"""Moving opaque items in tiles moves every item to where a plain copy would put it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ckmigrate.execute import items
from ckmigrate.execute.items import contiguous, joined

SHAPES = [(300, 700), (7, 300, 129), (65, 3, 257), (2, 3, 70, 66), (1, 400), (400, 1), (0, 5), ()]


@pytest.fixture(autouse=True)
def _always_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "_TILED_FROM", 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "V16"])
def test_every_permutation_is_copied_as_numpy_copies_it(shape: tuple[int, ...], dtype: str) -> None:
    width = np.dtype(dtype).itemsize
    count = int(np.prod(shape))
    raw = np.random.default_rng(0).integers(0, 256, count * width, dtype=np.uint8)
    array = raw.view(dtype).reshape(shape)
    for order in itertools.permutations(range(len(shape))):
        turned = array.transpose(order)
        found = contiguous(turned)
        assert found.flags.c_contiguous
        assert found.tobytes() == turned.tobytes()


def test_what_is_in_order_is_not_copied() -> None:
    array = np.zeros((300, 300), "u2")
    assert contiguous(array) is array


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_parts_are_joined_in_any_layout(dim: int) -> None:
    whole = np.arange(60 * 70 * 80, dtype="u4").reshape(60, 70, 80)
    parts = np.split(whole.transpose(2, 0, 1), [3, 40], axis=dim)
    found = joined(parts, dim)
    assert (found == whole.transpose(2, 0, 1)).all()
    assert found.flags.c_contiguous


def test_constants_and_reversed_lines_are_copied() -> None:
    constant = np.broadcast_to(np.uint8(7), (300, 300))
    assert contiguous(constant).tobytes() == bytes([7]) * 90_000
    array = np.arange(90_000, dtype="u4").reshape(300, 300).T[::-1, ::-2]
    assert (contiguous(array) == array).all()
