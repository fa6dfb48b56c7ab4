"""Give entries other names, all at once."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from ckmigrate.expr import Expr
from ckmigrate.names import pair
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step

__all__ = ["Renames", "Same", "rename"]


@dataclass(frozen=True, slots=True)
class Same:
    """The tensor itself."""

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return inputs

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(self)

    def describe(self) -> str:
        return ""


_SAME = Same()


@dataclass(frozen=True, slots=True)
class Renames(Sequence[Step]):
    """The steps of one rename: `old[i]` becomes `new[i]`, all at once.

    A step is made when it is asked for: a chain that renames everything has millions of them, and
    is carried out, inverted and counted without looking at any.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.old)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Renames: ...
    def __getitem__(self, index: int | slice) -> Step | Renames:
        if isinstance(index, slice):
            return Renames(self.old[index], self.new[index])
        return Step((self.old[index],), (self.new[index],), _SAME)

    def __iter__(self) -> Iterator[Step]:
        return (Step((old,), (new,), _SAME) for old, new in zip(self.old, self.new, strict=True))

    def inverse(self) -> Renames:
        """The renames back, the last one first."""
        return Renames(self.new[::-1], self.old[::-1])


def rename(specs: Schemas, old: str | re.Pattern[str], new: str, *, optional: bool) -> Renames:
    """One simultaneous bijection from every name that `old` matches."""
    moved = pair(old, new, specs, optional=optional)
    if not all(map(operator.ne, moved, moved.values())):
        moved = {old: new for old, new in moved.items() if old != new}
    return Renames(tuple(moved), tuple(moved.values()))
