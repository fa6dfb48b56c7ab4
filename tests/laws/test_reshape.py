"""Law: slices, orders and joins of what a reshape could not express as a view are numpy's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate import expr as ex
from ckmigrate.expr import Expr, Source
from ckmigrate.spec import DType, TensorSpec
from tests.laws.chains import bytes_of

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Expr, Array]


def shape_of(draw: st.DrawFn, numel: int) -> tuple[int, ...]:
    sizes = []
    while numel > 1:
        sizes.append(draw(st.sampled_from([n for n in range(2, numel + 1) if numel % n == 0])))
        numel //= sizes[-1]
    return tuple(draw(st.permutations(sizes)))


@st.composite
def jumbles(draw: st.DrawFn) -> tuple[list[Pair], dict[str, bytes]]:
    """Every stage of: a source or two joined ones, transposed, reshaped, cut, reshaped, …"""
    tail = draw(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=2))
    made: list[Pair] = []
    data: dict[str, bytes] = {}
    for name in "xy":
        shape = (draw(st.sampled_from([2, 3, 4, 6])), *tail)
        values = np.arange(math.prod(shape), dtype="<u2").reshape(shape) + 1000 * len(data)
        data[name] = values.astype("<u2").tobytes()
        made.append((Source(name, TensorSpec(DType.U16, shape)), values))
    expr, value = made[0]
    if draw(st.booleans()):
        expr, value = ex.concat([e for e, _ in made], 0), np.concatenate([v for _, v in made])
    stages: list[Pair] = []
    for _ in range(draw(st.integers(2, 7))):
        kind = draw(st.integers(0, 3))
        if kind == 0:
            shape = shape_of(draw, value.size)
            expr, value = ex.reshape(expr, shape), value.reshape(shape)
        elif kind == 1 and value.ndim:
            order = draw(st.permutations(range(value.ndim)))
            expr, value = ex.permute(expr, order), value.transpose(order)
        elif kind == 2 and value.ndim:
            dim = draw(st.integers(0, value.ndim - 1))
            begin = draw(st.integers(0, value.shape[dim] - 1))
            end = draw(st.integers(begin + 1, value.shape[dim]))
            step = draw(st.sampled_from([1, 1, 2, 3]))
            expr = ex.slice_(expr, dim, begin, end, step)
            value = value.take(range(begin, end, step), dim)
        elif value.ndim and value.size < 200:
            dim = draw(st.integers(0, value.ndim - 1))
            cut = draw(st.integers(0, value.shape[dim]))
            parts = [(cut, value.shape[dim]), (0, cut)]
            expr = ex.concat([ex.slice_(expr, dim, a, b) for a, b in parts], dim)
            value = np.concatenate([value.take(range(a, b), dim) for a, b in parts], dim)
        stages.append((expr, value))
    return stages, data


@given(jumbles())
@settings(max_examples=400, deadline=None)
def test_every_stage_has_numpys_bytes(jumble: tuple[list[Pair], dict[str, bytes]]) -> None:
    stages, data = jumble
    schema: Any = {name: TensorSpec(DType.U16, (len(raw) // 2,)) for name, raw in data.items()}
    for expr, value in stages:
        assert expr.spec.shape == value.shape
        assert bytes_of(expr, data, schema) == value.astype("<u2").tobytes()
