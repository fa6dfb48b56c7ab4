"""Rows along a dimension by an index map, such as a vocabulary that changed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.operations.matching import select
from ckmigrate.operations.resize import _element, unused_element
from ckmigrate.scalar import Number
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Irreversible, Schemas, Step, in_place, refuse, resolve_dim

__all__ = ["Gather", "gather"]


@dataclass(frozen=True, slots=True)
class Gather:
    """Row i of the result is row index[i] of the tensor, or filled where index[i] is None."""

    dim: int
    index: tuple[int | None, ...]
    element: bytes

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (ex.concat([self._rows(inputs[0], *run) for run in self._runs()], self.dim),)

    def _runs(self) -> list[tuple[int | None, int]]:
        """Neighbouring rows as (first row or None, count)."""
        runs: list[tuple[int | None, int]] = []
        for row in self.index:
            first, count = runs[-1] if runs else (None, 0)
            follows = row is None if first is None else row == first + count
            if count and follows:
                runs[-1] = (first, count + 1)
            else:
                runs.append((row, 1))
        return runs or [(None, 0)]

    def _rows(self, whole: Expr, first: int | None, count: int) -> Expr:
        if first is not None:
            return ex.slice_(whole, self.dim, first, first + count)
        shape = whole.spec.shape
        spec = TensorSpec(whole.spec.dtype, (*shape[: self.dim], count, *shape[self.dim + 1 :]))
        return ex.fill(self.element, spec)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        size = inputs[0].shape[self.dim]
        place = {row: position for position, row in enumerate(self.index) if row is not None}
        lost = [row for row in range(size) if row not in place]
        if lost:
            raise Irreversible(
                f"{len(lost)} of {size} rows of '{step.sources[0]}' are gathered nowhere"
            )
        back = tuple(place[row] for row in range(size))
        return step.back(Gather(self.dim, back, self.element))

    def describe(self) -> str:
        new = sum(row is None for row in self.index)
        return f"dim {self.dim}: {len(self.index) - new} rows kept, {new} new"


def whole_numbers(index: Iterable[object]) -> list[object]:
    """The index with the whole numbers of numpy and torch made Python's; others stay as they are,
    to be named in an error."""
    return [row if isinstance(row, bool) else _whole_number(row) for row in index]


def _whole_number(row: object) -> object:
    try:
        return operator.index(row)  # type: ignore[arg-type]
    except TypeError:
        return row


def gather(
    specs: Schemas,
    pattern: str,
    index: Sequence[object],
    *,
    dim: int,
    fill: Number | None,
    optional: bool,
) -> tuple[Step, ...]:
    """`index` lists the old row of every new row; None is a new row and needs a fill."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        axis = resolve_dim(dim, spec, match.name)
        rows = _require_rows(match.name, spec.shape[axis], index, fill)
        element = unused_element(spec) if fill is None else _element(fill, spec, match.name)
        kernel = Gather(axis, rows, element)
        steps.append(in_place(match.name, kernel))
    return tuple(steps)


def _require_rows(
    name: str, size: int, index: Sequence[object], fill: Number | None
) -> tuple[int | None, ...]:
    rows: list[int | None] = []
    for position, row in enumerate(index):
        if row is None and fill is not None:
            rows.append(None)
            continue
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < size:
            raise refuse(
                "CKM521",
                f"index[{position}] = {row!r} is not a row of '{name}'",
                why=f"It has {size} rows; a new row is None and needs fill=."
                if row is None
                else f"It has {size} rows, 0 to {size - 1}.",
                fix="Give row numbers of the old tensor, None with fill= for new rows.",
            )
        rows.append(row)
    return tuple(rows)
