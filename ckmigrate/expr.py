"""Symbolic tensors in normal form: where the bytes of a tensor come from.

An expression is a small frozen tree. Its leaves are `Source` (a tensor of the checkpoint), `Fill`
(one constant), `Random` (an initialiser's values) and `Result` (an output of a function on
tensors). Above them stand `View`, `Reshape`, `Concat` and `Cast`.

A `View` is any composition of slices, permutations, and reshapes that need no copy: an offset and
one stride per dimension over the row-major elements of its base. Views compose into one view, which
is what keeps a chain of migrations as short as its net effect. `Reshape` exists only where elements
must really move (flattening a transposed matrix).

Nodes are built by the constructors below, which return the normal form:

    concat((slice_(x, 0, 0, 3), slice_(x, 0, 3, 6)), 0) == x       for x of 6 rows
    permute(permute(x, (1, 0)), (1, 0)) == x
    reshape(reshape(x, (2, 8)), (16,)) == reshape(x, (16,))

The normal form is sound (an expression always means the same elements) and closed; it is not
complete: two different trees can still have equal values, and then the plan merely copies more
than it had to. All sizes count elements. Dimensions are non-negative here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ckmigrate.spec import DType, TensorSpec

__all__ = [
    "Call",
    "Cast",
    "Concat",
    "Expr",
    "Fill",
    "Moments",
    "Random",
    "RandomKind",
    "Reshape",
    "Result",
    "Source",
    "View",
    "call",
    "cast",
    "concat",
    "fill",
    "permute",
    "reshape",
    "slice_",
    "sources",
    "walk",
]


RandomKind = Literal["uniform", "normal", "orthogonal", "eye"]

Moments = Literal["same", "reset"] | Callable[..., object] | None
"""They stay as they are, begin anew, or are computed by a function of the name of the moment and
the tensors; None where nobody has said."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the checkpoint, by its name there."""

    name: str
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Fill:
    """Every element equals `element`: its little-endian bytes (b"\\0" for sub-byte dtypes)."""

    element: bytes
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Random:
    """Values of an initialiser; `key` names the stream, so the values depend on nothing else.

    kind    uniform (a, b), normal (mean, std), orthogonal (gain,) or eye ()
    """

    kind: RandomKind
    numbers: tuple[float, ...]
    key: str
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class View:
    """Elements `offset + Σ index·strides` of the flattened base; stride 0 where the size is 1."""

    base: Base
    offset: int
    strides: tuple[int, ...]
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Reshape:
    """The base's elements in row-major order under another shape, where no view can say so."""

    base: View | Concat
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Concat:
    """Two or more parts, none empty, one after another along `dim`."""

    parts: tuple[Expr, ...]
    dim: int
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Cast:
    """The base's values in another dtype, rounded as torch rounds."""

    base: Expr
    spec: TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A function on real tensors, called once at execution; equal only to itself.

    key      names the stream of whatever random numbers it draws from torch
    moments  what the function means for an optimizer's moments of its inputs, see `Moments`
    """

    function: Callable[..., object]
    inputs: tuple[Expr, ...]
    outputs: tuple[TensorSpec, ...]
    label: str = field(default="compute")
    key: str = ""
    moments: Moments = None


@dataclass(frozen=True, slots=True)
class Result:
    """Output number `index` of a call."""

    call: Call
    index: int
    spec: TensorSpec


Base = Source | Random | Result | Reshape
Expr = Source | Fill | Random | View | Reshape | Concat | Cast | Result


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor; 0 where the size is 1, as in a normal view."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(0 if size == 1 else step)
        step *= size
    return tuple(reversed(strides))


def fill(element: bytes, spec: TensorSpec) -> Fill:
    """A constant tensor; all empty tensors of one spec are the same constant."""
    return Fill(element if spec.numel else bytes(len(element)), spec)


def _empty(spec: TensorSpec) -> Fill:
    return Fill(bytes(max(1, spec.dtype.bits // 8)), spec)


def _with_shape(expr: Expr, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(expr.spec.dtype, shape)


def _view(
    base: Base,
    offset: int,
    strides: Sequence[int],
    shape: tuple[int, ...],
) -> Expr:
    spec = TensorSpec(base.spec.dtype, shape)
    if spec.numel == 0:
        return _empty(spec)
    normal = tuple(0 if size == 1 else st for size, st in zip(shape, strides, strict=True))
    if offset == 0 and shape == base.spec.shape and normal == row_major(shape):
        return base
    return View(base, offset, normal, spec)


def _as_view(expr: Base | View) -> tuple[Base, int, tuple[int, ...]]:
    if isinstance(expr, View):
        return expr.base, expr.offset, expr.strides
    return expr, 0, row_major(expr.spec.shape)


# -- slice ------------------------------------------------------------------------------------


def slice_(expr: Expr, dim: int, start: int, stop: int, step: int = 1) -> Expr:
    """Elements start, start+step, … below stop along dim; 0 ≤ start ≤ stop ≤ size, step ≥ 1."""
    shape = expr.spec.shape
    count = max(0, -(-(stop - start) // step))
    if count == shape[dim] and start == 0:
        return expr
    new = (*shape[:dim], count, *shape[dim + 1 :])
    if math.prod(new) == 0:
        return _empty(_with_shape(expr, new))
    match expr:
        case Fill():
            return fill(expr.element, _with_shape(expr, new))
        case Cast():
            return cast(slice_(expr.base, dim, start, stop, step), expr.spec.dtype)
        case Concat():
            return _slice_concat(expr, dim, start, stop, step)
        case Reshape():
            inner = _slice_below_reshape(expr, dim, start, stop, step, new)
            if inner is not None:
                return inner
    base, offset, strides = _as_view(expr)
    moved = [*strides]
    moved[dim] *= step
    return _view(base, offset + start * strides[dim], moved, new)


def _slice_concat(expr: Concat, dim: int, start: int, stop: int, step: int) -> Expr:
    if dim != expr.dim:
        return concat([slice_(part, dim, start, stop, step) for part in expr.parts], expr.dim)
    parts: list[Expr] = []
    position = 0
    for part in expr.parts:
        size = part.spec.shape[dim]
        first = start if start >= position else position + (start - position) % step
        last = min(stop, position + size)
        if first < last:
            parts.append(slice_(part, dim, first - position, last - position, step))
        position += size
    return concat(parts, dim)


def _slice_below_reshape(
    expr: Reshape, dim: int, start: int, stop: int, step: int, new: tuple[int, ...]
) -> Expr | None:
    """Push a slice under a reshape where it selects whole rows of one inner dimension."""
    shape, inner = expr.spec.shape, expr.base.spec.shape
    outer, unit = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    for axis in range(len(inner)):
        row = math.prod(inner[axis + 1 :])
        whole = (start * unit) % row == 0 and (stop * unit) % row == 0
        if step == 1 and whole and math.prod(inner[:axis]) == outer:
            part = slice_(expr.base, axis, start * unit // row, stop * unit // row)
            return reshape(part, new)
    return None


# -- permute ----------------------------------------------------------------------------------


def permute(expr: Expr, dims: Sequence[int]) -> Expr:
    """Dimension i of the result is dimension dims[i] of the argument."""
    dims = tuple(dims)
    if dims == tuple(range(len(dims))):
        return expr
    new = tuple(expr.spec.shape[d] for d in dims)
    match expr:
        case Fill():
            return fill(expr.element, _with_shape(expr, new))
        case Cast():
            return cast(permute(expr.base, dims), expr.spec.dtype)
        case Concat():
            return concat([permute(part, dims) for part in expr.parts], dims.index(expr.dim))
    base, offset, strides = _as_view(expr)
    return _view(base, offset, [strides[d] for d in dims], new)


# -- reshape ----------------------------------------------------------------------------------


def reshape(expr: Expr, shape: Sequence[int]) -> Expr:
    """The same elements in row-major order under another shape of the same size."""
    shape = tuple(shape)
    if shape == expr.spec.shape:
        return expr
    spec = _with_shape(expr, shape)
    if spec.numel == 0:
        return _empty(spec)
    match expr:
        case Fill():
            return fill(expr.element, spec)
        case Cast():
            return cast(reshape(expr.base, shape), expr.spec.dtype)
        case Reshape():
            return reshape(expr.base, shape)
        case Concat():
            return _reshape_concat(expr, shape)
    base, offset, strides = _as_view(expr)
    moved = _restride(expr.spec.shape, strides, shape)
    if moved is not None:
        return _view(base, offset, moved, shape)
    assert isinstance(expr, View)
    return Reshape(expr, spec)


def _reshape_concat(expr: Concat, shape: tuple[int, ...]) -> Expr:
    """Keep the seams of a concatenation where they fall between rows of the new shape."""
    old, dim = expr.spec.shape, expr.dim
    outer, unit = math.prod(old[:dim]), math.prod(old[dim + 1 :])
    for axis in reversed(range(len(shape))):
        row = math.prod(shape[axis + 1 :])
        sizes = [part.spec.shape[dim] * unit for part in expr.parts]
        if math.prod(shape[:axis]) == outer and all(size % row == 0 for size in sizes):
            parts = [
                reshape(part, (*shape[:axis], size // row, *shape[axis + 1 :]))
                for part, size in zip(expr.parts, sizes, strict=True)
            ]
            return concat(parts, axis)
    return Reshape(expr, _with_shape(expr, shape))


def _restride(
    old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides that give the same row-major sequence under the new shape, or None.

    Runs of old dimensions that are evenly spaced are merged into blocks (size, stride); each new
    dimension must then fit inside one block.
    """
    blocks: list[tuple[int, int]] = []
    for size, stride in zip(old, strides, strict=True):
        if size == 1:
            continue
        if blocks and blocks[-1][1] == size * stride:
            blocks[-1] = (blocks[-1][0] * size, stride)
        else:
            blocks.append((size, stride))
    result: list[int] = []
    room, step = 1, 0
    for size in reversed(new):
        if size == 1:
            result.append(0)
            continue
        if room == 1:
            room, step = blocks.pop()
        if room % size:
            return None
        result.append(step)
        room, step = room // size, step * size
    return tuple(reversed(result))


# -- concat -----------------------------------------------------------------------------------


def concat(parts: Sequence[Expr], dim: int) -> Expr:
    """The parts, of equal dtype and equal size in every other dimension, along dim."""
    first = parts[0].spec
    total = sum(part.spec.shape[dim] for part in parts)
    spec = TensorSpec(first.dtype, (*first.shape[:dim], total, *first.shape[dim + 1 :]))
    if spec.numel == 0:
        return _empty(spec)
    merged: list[Expr] = []
    for part in _flatten(parts, dim):
        joined = _join(merged[-1], part, dim) if merged else None
        if joined is None:
            merged.append(part)
        else:
            merged[-1] = joined
    if len(merged) == 1:
        return merged[0]
    casts = [part for part in merged if isinstance(part, Cast)]
    if len(casts) == len(merged) and len({part.base.spec.dtype for part in casts}) == 1:
        return cast(concat([part.base for part in casts], dim), spec.dtype)
    return Concat(tuple(merged), dim, spec)


def _flatten(parts: Sequence[Expr], dim: int) -> Iterator[Expr]:
    for part in parts:
        if isinstance(part, Concat) and part.dim == dim:
            yield from part.parts
        elif part.spec.numel:
            yield part


def _join(left: Expr, right: Expr, dim: int) -> Expr | None:
    """One expression for two neighbours, where there is one."""
    shape = left.spec.shape
    new = (*shape[:dim], shape[dim] + right.spec.shape[dim], *shape[dim + 1 :])
    match left, right:
        case Fill(), Fill():
            same = left.element == right.element
            return Fill(left.element, _with_shape(left, new)) if same else None
        case Concat(), Concat():
            return _join_concats(left, right, dim)
        case (Fill() | Cast() | Concat(), _) | (_, Fill() | Cast() | Concat()):
            return None
        case _:
            return _join_views(left, right, dim, new)


def _join_concats(left: Concat, right: Concat, dim: int) -> Expr | None:
    """Two rows of blocks become one where every block continues its neighbour."""
    if left.dim != right.dim or len(left.parts) != len(right.parts):
        return None
    joined = [_join(a, b, dim) for a, b in zip(left.parts, right.parts, strict=True)]
    if not all(
        a.spec.shape[left.dim] == b.spec.shape[left.dim]
        for a, b in zip(left.parts, right.parts, strict=True)
    ):
        return None
    whole = [part for part in joined if part is not None]
    return concat(whole, left.dim) if len(whole) == len(joined) else None


def _join_views(
    left: Base | View, right: Base | View, dim: int, new: tuple[int, ...]
) -> Expr | None:
    base, offset, strides = _as_view(left)
    other, next_offset, next_strides = _as_view(right)
    if base is not other and base != other:
        return None
    size, gap = left.spec.shape[dim], next_offset - offset
    steps = {
        step[dim]
        for part, step in ((left, strides), (right, next_strides))
        if part.spec.shape[dim] > 1
    }
    if not steps and _is_natural(base, left.spec.shape, strides, dim, gap):
        steps = {gap}
    if (
        len(steps) != 1
        or strides[:dim] + strides[dim + 1 :] != next_strides[:dim] + next_strides[dim + 1 :]
    ):
        return None
    step = steps.pop()
    if step <= 0 or gap != size * step:
        return None
    return _view(base, offset, (*strides[:dim], step, *strides[dim + 1 :]), new)


def _is_natural(
    base: Expr, shape: tuple[int, ...], strides: tuple[int, ...], dim: int, gap: int
) -> bool:
    """Whether a gap between two single rows is a step that the base itself takes.

    Any positive gap would give a correct view; only natural ones keep the result independent of
    the order in which rows were joined.
    """
    inner = [
        size * stride
        for i, (size, stride) in enumerate(zip(shape, strides, strict=True))
        if i != dim and 0 < stride < gap
    ]
    return gap == max(inner, default=1) or gap in row_major(base.spec.shape)


# -- values -----------------------------------------------------------------------------------

_WIDENS: dict[DType, frozenset[DType]] = {
    DType.F16: frozenset({DType.F32, DType.F64}),
    DType.BF16: frozenset({DType.F32, DType.F64}),
    DType.F32: frozenset({DType.F64}),
    DType.C64: frozenset({DType.C128}),
    DType.U8: frozenset({DType.I16, DType.I32, DType.I64, DType.F16, DType.F32, DType.F64}),
    DType.I8: frozenset({DType.I16, DType.I32, DType.I64, DType.F16, DType.F32, DType.F64}),
    DType.I16: frozenset({DType.I32, DType.I64, DType.F32, DType.F64}),
    DType.I32: frozenset({DType.I64, DType.F64}),
    DType.BOOL: frozenset({DType.U8, DType.I8, DType.I16, DType.I32, DType.I64, DType.F32}),
}


def is_exact_cast(old: DType, new: DType) -> bool:
    """Whether every value of the old dtype has an equal value in the new one."""
    return old == new or new in _WIDENS.get(old, frozenset())


def cast(expr: Expr, dtype: DType) -> Expr:
    """The values in another dtype; an exact widening under a second cast disappears."""
    if expr.spec.dtype == dtype:
        return expr
    spec = TensorSpec(dtype, expr.spec.shape)
    if spec.numel == 0:
        return _empty(spec)
    if isinstance(expr, Cast) and is_exact_cast(expr.base.spec.dtype, expr.spec.dtype):
        return cast(expr.base, dtype)
    if isinstance(expr, Fill) and min(dtype.bits, expr.spec.dtype.bits) >= 8:
        from ckmigrate.scalar import cast_element

        try:
            return Fill(cast_element(expr.element, expr.spec.dtype, dtype), spec)
        except (ValueError, OverflowError):
            pass  # a value that the new dtype lacks: torch decides, as for any other tensor
    return Cast(expr, spec)


def call(
    function: Callable[..., object],
    inputs: Sequence[Expr],
    outputs: Sequence[TensorSpec],
    label: str = "compute",
    key: str = "",
    moments: Moments = None,
) -> tuple[Expr, ...]:
    """The outputs of a function on tensors, each an expression of its own."""
    node = Call(function, tuple(inputs), tuple(outputs), label, key, moments)
    return tuple(Result(node, index, spec) for index, spec in enumerate(node.outputs))


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case View() | Reshape() | Cast():
            return (expr.base,)
        case Concat():
            return expr.parts
        case Result():
            return expr.call.inputs
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node, from the top and from the left; below a call only once, however many of its
    results stand in the tree (a chain of calls would otherwise be walked exponentially often)."""
    called: set[int] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Result):
            if id(node.call) in called:
                continue
            called.add(id(node.call))
        stack.extend(reversed(children(node)))


def sources(expr: Expr) -> tuple[str, ...]:
    """Names of the checkpoint's tensors that the expression reads, each once, in order."""
    if isinstance(expr, Source):  # most entries of most plans
        return (expr.name,)
    return tuple(dict.fromkeys(node.name for node in walk(expr) if isinstance(node, Source)))


def is_structural(expr: Expr) -> bool:
    """Whether the expression only moves bytes: no cast, no random values, no function."""
    return not any(isinstance(node, (Cast, Random, Result)) for node in walk(expr))
