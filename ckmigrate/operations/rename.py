"""Give entries other names, all at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckmigrate.expr import Expr
from ckmigrate.names import pair
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step

__all__ = ["Same", "rename"]


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


def rename(
    specs: Schemas, old: str | re.Pattern[str], new: str, *, optional: bool
) -> tuple[Step, ...]:
    """One simultaneous bijection from every name that `old` matches."""
    pairs = pair(old, new, specs, optional=optional)
    return tuple([Step((old,), (new,), _SAME) for old, new in pairs if old != new])
