"""From an expression to the work it takes: byte ranges, a gather, or a computation.

`lower` decides from the expression alone. A tensor whose bytes are few long runs of its sources
(and of constants) is a `Copy`: the kernel moves it, nothing is decoded. One whose bytes are many
short runs is a `Gather`: numpy moves opaque items. Casts, random values and functions are a
`Compute`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckmigrate.errors import MigrationError
from ckmigrate.expr import (
    Cast,
    Concat,
    Expr,
    Fill,
    Reshape,
    Result,
    Source,
    View,
    is_structural,
    walk,
)

__all__ = ["Compute", "Copy", "FillRange", "Gather", "Lowered", "SourceRange", "lower"]

MIN_MEAN_RUN = 2048
"""Bytes: below this mean length, one numpy gather is cheaper than that many kernel calls."""
MAX_RUNS = 1 << 20
FEW_RUNS = 16


@dataclass(frozen=True, slots=True)
class SourceRange:
    """`nbytes` bytes of the source tensor `name`, from byte `start` of its row-major data."""

    name: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FillRange:
    """`nbytes` bytes that repeat `element`."""

    element: bytes
    nbytes: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Ranges whose concatenation is the tensor's data."""

    ranges: tuple[SourceRange | FillRange, ...]


@dataclass(frozen=True, slots=True)
class Gather:
    """Elements move one by one or in short runs; numpy does it on opaque items."""


@dataclass(frozen=True, slots=True)
class Compute:
    """New numbers. `torch` tells whether the torch package is needed for them."""

    torch: bool


Lowered = Copy | Gather | Compute

_Run = tuple[str | bytes, int, int]
"""(source name, first element, count), or (fill element, 0, count)."""


class _TooManyError(Exception):
    pass


def lower(expr: Expr, is_plain: Callable[[str], bool]) -> Lowered:
    """The work that gives the expression's bytes.

    is_plain tells whether a source's data is one contiguous little-endian range of its file.
    Raises MigrationError CKM540 where sub-byte elements would have to be taken out of a byte.
    """
    if isinstance(expr, Source) and is_plain(expr.name):  # most entries of most plans
        return Copy(tuple(_to_range(run, expr) for run in _runs(expr, FEW_RUNS)))
    if not is_structural(expr):
        _require_whole_bytes(expr)
        return Compute(torch=any(isinstance(node, (Cast, Result)) for node in walk(expr)))
    bits = expr.spec.dtype.bits
    if not _all_plain(expr, is_plain):
        _require_whole_bytes(expr)
        return Gather()
    limit = MAX_RUNS if bits < 8 else max(FEW_RUNS, expr.spec.nbytes // MIN_MEAN_RUN)
    try:
        runs = _runs(expr, limit)
    except _TooManyError:
        if bits < 8:
            raise _unaligned(expr) from None
        return Gather()
    return Copy(tuple(_to_range(run, expr) for run in runs))


def _all_plain(expr: Expr, is_plain: Callable[[str], bool]) -> bool:
    return all(is_plain(node.name) for node in walk(expr) if isinstance(node, Source))


def _require_whole_bytes(expr: Expr) -> None:
    """Only copies of byte ranges know narrow elements; nothing else may touch them."""
    for node in walk(expr):
        if node.spec.dtype.bits < 8:
            raise MigrationError(
                "CKM540",
                f"{node.spec.dtype} elements cannot be computed with or put in order",
                why=f"They are {node.spec.dtype.bits} bits wide, and only whole bytes are.",
                fix="Migrate the tensor before it is quantised, or leave it as it stands.",
            )


def _to_range(run: _Run, expr: Expr) -> SourceRange | FillRange:
    origin, start, count = run
    bits = expr.spec.dtype.bits
    if (start * bits) % 8 or (count * bits) % 8:
        raise _unaligned(expr)
    if isinstance(origin, bytes):
        return FillRange(origin, count * bits // 8)
    return SourceRange(origin, start * bits // 8, count * bits // 8)


def _unaligned(expr: Expr) -> MigrationError:
    dtype = expr.spec.dtype
    return MigrationError(
        "CKM540",
        f"{dtype} elements are {dtype.bits} bits wide and this change would cut through a byte",
        why="Narrow elements can be moved only in groups that begin and end on a byte border.",
        fix="Cut at multiples of whole bytes, or migrate the tensor before it is quantised.",
    )


# -- runs -------------------------------------------------------------------------------------


def _runs(expr: Expr, limit: int) -> list[_Run]:
    match expr:
        case Source():
            return [(expr.name, 0, expr.spec.numel)] if expr.spec.numel else []
        case Fill():
            return [(expr.element, 0, expr.spec.numel)] if expr.spec.numel else []
        case Reshape():
            return _runs(expr.base, limit)
        case View():
            return _view_runs(expr, limit)
        case Concat():
            return _concat_runs(expr, limit)
    raise AssertionError(expr)


def _push(runs: list[_Run], run: _Run, limit: int) -> None:
    if runs and runs[-1][0] == run[0]:
        origin, start, count = runs[-1]
        if isinstance(origin, bytes) or start + count == run[1]:
            runs[-1] = (origin, start, count + run[2])
            return
    if len(runs) >= limit:
        raise _TooManyError
    runs.append(run)


def _view_runs(expr: View, limit: int) -> list[_Run]:
    blocks, width = _blocks(expr)
    if math.prod(size for size, _ in blocks) > limit * 64:
        raise _TooManyError
    base = None if isinstance(expr.base, Source) else _Cut(_runs(expr.base, MAX_RUNS))
    runs: list[_Run] = []
    for start in _offsets(expr.offset, blocks):
        if base is None:
            assert isinstance(expr.base, Source)
            _push(runs, (expr.base.name, start, width), limit)
        else:
            for run in base.take(start, start + width):
                _push(runs, run, limit)
    return runs


def _blocks(expr: View) -> tuple[list[tuple[int, int]], int]:
    """Outer (size, stride) loops and the length of the contiguous run inside them."""
    dims = [(n, st) for n, st in zip(expr.spec.shape, expr.strides, strict=True) if n > 1]
    width = 1
    while dims and dims[-1][1] == width:
        width *= dims.pop()[0]
    return dims, width


def _offsets(offset: int, blocks: list[tuple[int, int]]) -> Iterator[int]:
    if not blocks:
        yield offset
        return
    (size, stride), inner = blocks[0], blocks[1:]
    for index in range(size):
        yield from _offsets(offset + index * stride, inner)


def _concat_runs(expr: Concat, limit: int) -> list[_Run]:
    outer = math.prod(expr.spec.shape[: expr.dim])
    if outer * len(expr.parts) > limit * 64:
        raise _TooManyError
    cuts = [_Cut(_runs(part, MAX_RUNS if outer > 1 else limit)) for part in expr.parts]
    rows = [part.spec.numel // outer for part in expr.parts]
    runs: list[_Run] = []
    for index in range(outer):
        for cut, row in zip(cuts, rows, strict=True):
            for run in cut.take(index * row, (index + 1) * row):
                _push(runs, run, limit)
    return runs


class _Cut:
    """A run list that gives out sub-ranges of the elements that it covers."""

    __slots__ = ("runs", "starts")

    def __init__(self, runs: list[_Run]) -> None:
        self.runs = runs
        self.starts: list[int] = []
        position = 0
        for run in runs:
            self.starts.append(position)
            position += run[2]

    def take(self, start: int, stop: int) -> Iterator[_Run]:
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            origin, first, count = self.runs[index]
            skip = start - self.starts[index]
            length = min(count - skip, stop - start)
            yield (origin, 0 if isinstance(origin, bytes) else first + skip, length)
            start += length
            index += 1
