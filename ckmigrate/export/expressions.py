"""Expressions as Python text on numpy arrays of opaque items, with the functions of `runtime`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

from ckmigrate.export.loops import comprehension
from ckmigrate.expr import (
    Call,
    Cast,
    Concat,
    Expr,
    Fill,
    Random,
    Reshape,
    Result,
    Source,
    View,
    row_major,
)

__all__ = ["expression_text"]

_MOST_DIMS = 6
"""Up to which the order of a permutation is searched for."""


def expression_text(expr: Expr, name_of: Callable[[Call], str]) -> str:
    """The text of an expression; `name_of` gives the name of the function of a call."""
    match expr:
        case Source():
            return f"old[{json.dumps(expr.name)}]"
        case Fill():
            return f'constant("{expr.element.hex()}", {_spec(expr)})'
        case Random():
            return (
                f'random_values("{expr.kind}", {expr.numbers!r}, {json.dumps(expr.key)}, '
                f"{_spec(expr)})"
            )
        case View():
            return _view(expr, expression_text(expr.base, name_of))
        case Reshape():
            return f"{expression_text(expr.base, name_of)}.reshape({expr.spec.shape!r})"
        case Concat():
            parts = [expression_text(part, name_of) for part in expr.parts]
            inner = comprehension(parts) or ", ".join(parts)
            return f"np.concatenate([{inner}], {expr.dim})"
        case Cast():
            inner, old = expression_text(expr.base, name_of), expr.base.spec.dtype.code
            return f'cast({inner}, "{old}", "{expr.spec.dtype.code}")'
        case Result():
            return _result(expr, name_of)


def _spec(expr: Fill | Random) -> str:
    return f'"{expr.spec.dtype.code}", {expr.spec.shape!r}'


def _result(expr: Result, name_of: Callable[[Call], str]) -> str:
    call = expr.call
    inputs = ", ".join(
        f'({expression_text(one, name_of)}, "{one.spec.dtype.code}")' for one in call.inputs
    )
    outputs = ", ".join(f'("{spec.dtype.code}", {spec.shape!r})' for spec in call.outputs)
    names = f"({json.dumps(call.label)}, {json.dumps(call.key)})"
    return f"call({name_of(call)}, {names}, [{inputs}], [{outputs}], {expr.index})"


def _view(expr: View, base: str) -> str:
    """A reshape, a subscript or a transposition where the view is one; else its strides."""
    shape, inner = expr.spec.shape, expr.base.spec.shape
    if not expr.offset and expr.strides == row_major(shape) and expr.spec.numel == math.prod(inner):
        return f"{base}.reshape({shape!r})"
    for way in (_subscript(expr), _transposed(expr), _rows(expr)):
        if way is not None:
            return f"{base}{way}"
    return f"strided({base}, {expr.offset}, {expr.strides!r}, {shape!r})"


def _subscript(expr: View) -> str | None:
    shape, inner = expr.spec.shape, expr.base.spec.shape
    if len(shape) != len(inner):
        return None
    left, items = expr.offset, []
    for dim, (size, whole) in enumerate(zip(shape, inner, strict=True)):
        unit = math.prod(inner[dim + 1 :])
        begin, left = divmod(left, unit)
        step = expr.strides[dim] // unit if size > 1 else 1
        stop = begin + (size - 1) * step + 1
        if step < 1 or stop > whole or (size > 1 and expr.strides[dim] != step * unit):
            return None
        full = (begin, size) == (0, whole)
        items.append(":" if full else f"{begin}:{stop}" + (f":{step}" if step > 1 else ""))
    while items and items[-1] == ":":
        items.pop()
    return f"[{', '.join(items)}]" if items else None


def _transposed(expr: View) -> str | None:
    shape, inner = expr.spec.shape, expr.base.spec.shape
    if expr.offset or len(shape) != len(inner) or len(shape) > _MOST_DIMS:
        return None
    steps = row_major(inner)
    for dims in itertools.permutations(range(len(shape))):
        if tuple(inner[d] for d in dims) == shape and tuple(steps[d] for d in dims) == expr.strides:
            return f".transpose({dims!r})"
    return None


def _rows(expr: View) -> str | None:
    """Whole rows of the base, one after another, under another shape."""
    inner, count = expr.base.spec.shape, expr.spec.numel
    unit = math.prod(inner[1:])
    is_block = expr.strides == row_major(expr.spec.shape) and unit > 0
    if not inner or not is_block or expr.offset % unit or count % unit:
        return None
    first = expr.offset // unit
    return f"[{first}:{first + count // unit}].reshape({expr.spec.shape!r})"
