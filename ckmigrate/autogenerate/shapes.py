"""Entries that kept their name and not their shape or dtype.

Nothing here is told by the shape alone: a transposed matrix and a reshaped one, a classifier that
was cut and one that was trained anew, look the same. Only dimensions of size one come and go
without a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty
from ckmigrate.autogenerate.rows import Reading, Row, propose_rows
from ckmigrate.spec import TensorSpec

__all__ = ["propose_casts", "propose_shapes"]


def propose_casts(board: Board, fresh: Fresh) -> None:
    """Another dtype first, so that what is left differs in shape only."""
    for (has, wants), names in _groups(board).items():
        if has.dtype is not wants.dtype:
            rows = [Row((name,), (name,)) for name in names]
            why = f"{has.dtype} → {wants.dtype}, same name"
            reading = _in_place("cast", f"{quoted(str(wants.dtype))}", why)
            propose_rows(board, rows, reading, "guess", [_anew(fresh, wants)])


def propose_shapes(board: Board, fresh: Fresh) -> None:
    """For every kind of change one call, with what else it can mean."""
    for (has, wants), names in _groups(board).items():
        if has.dtype is wants.dtype:
            rows = [Row((name,), (name,)) for name in names]
            certainty, readings = _readings(has, wants)
            readings = [*readings, _anew(fresh, wants)]
            if len(readings) == 1:
                certainty = "ambiguous"
            propose_rows(board, rows, readings[0], certainty, readings[1:])


def _groups(board: Board) -> dict[tuple[TensorSpec, TensorSpec], list[str]]:
    found: dict[tuple[TensorSpec, TensorSpec], list[str]] = {}
    for name, change in board.changed.items():
        found.setdefault(change, []).append(name)
    return found


def _readings(has: TensorSpec, wants: TensorSpec) -> tuple[Certainty, list[Reading]]:
    if _without_ones(has) == _without_ones(wants):
        return "certain", [_ones(has, wants)]
    if has.numel == wants.numel and has.numel:
        moves = [_transposed(has, *dims) for dims in _transpositions(has, wants)]
        why = f"{_shape(has)} → {_shape(wants)}, as many elements in the same order"
        reshape = _in_place("reshape", str(wants.shape), why)
        # Which of them was meant is not in the shapes.
        return ("ambiguous" if moves else "guess"), [*moves, reshape]
    if has.ndim == wants.ndim:
        return "guess", [_resized(has, wants)]
    return "ambiguous", []


def _without_ones(spec: TensorSpec) -> list[int]:
    return [size for size in spec.shape if size != 1]


def _ones(has: TensorSpec, wants: TensorSpec) -> Reading:
    """A dimension of size one that went or came; several of them are a reshape."""
    why = f"{_shape(has)} → {_shape(wants)}: only dimensions of size 1 differ"
    for dim in range(max(has.ndim, wants.ndim)):
        if has.shape[:dim] + has.shape[dim + 1 :] == wants.shape and has.ndim > wants.ndim:
            return _in_place("squeeze", str(dim), why)
        if wants.shape[:dim] + wants.shape[dim + 1 :] == has.shape and wants.ndim > has.ndim:
            return _in_place("unsqueeze", str(dim), why)
    return _in_place("reshape", str(wants.shape), why)


def _transpositions(has: TensorSpec, wants: TensorSpec) -> list[tuple[int, int]]:
    if has.ndim != wants.ndim:
        return []
    found = []
    for one, other in combinations(range(has.ndim), 2):
        shape = list(has.shape)
        shape[one], shape[other] = shape[other], shape[one]
        if tuple(shape) == wants.shape and shape[one] != shape[other]:
            found.append((one, other))
    return found


def _transposed(has: TensorSpec, one: int, other: int) -> Reading:
    why = f"dimensions {one} and {other} of {_shape(has)} exchanged"
    return _in_place("transpose", f"{one}, {other}", why)


def _resized(has: TensorSpec, wants: TensorSpec) -> Reading:
    """The old part stays; kernels stay in their centre."""
    differ = [d for d in range(has.ndim) if has.shape[d] != wants.shape[d]]
    centre = ', anchor="center"' if has.ndim > 2 and min(differ) >= 2 else ""
    grown = any(wants.shape[d] > has.shape[d] for d in differ)
    what = "zeros in the new places" if grown else "the rest is cut off"
    why = f"{_shape(has)} → {_shape(wants)}: the old part is kept, {what}"
    return _in_place("resize", f"{wants.shape}{centre}", why)


def _in_place(kind: str, arguments: str, why: str) -> Reading:
    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        return f"ck.{kind}({quoted(sources[0])}, {arguments})"

    return Reading(kind, write, why)


def _anew(fresh: Fresh, wants: TensorSpec) -> Reading:
    """The old values go and new ones are drawn."""

    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        names = [row.targets[0] for row in rows]
        drop = f"ck.drop({quoted(sources[0])}, reason={quoted('its shape is another; made anew')})"
        return "\n".join([drop, *fresh.calls(names, wants)])

    return Reading("init", write, "made anew, the old values are dropped")


def _shape(spec: TensorSpec) -> str:
    return f"[{','.join(map(str, spec.shape))}]"
