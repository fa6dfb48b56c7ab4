"""Another dtype."""

from __future__ import annotations

from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr, is_exact_cast
from ckmigrate.operations.init import parse_dtype
from ckmigrate.operations.matching import select
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check, Irreversible, Schemas, Step, in_place, refuse

__all__ = ["Cast", "cast"]


@dataclass(frozen=True, slots=True)
class Cast:
    """The values in `dtype`, rounded as torch rounds."""

    dtype: DType

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (ex.cast(inputs[0], self.dtype),)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        if not is_exact_cast(inputs[0].dtype, self.dtype):
            raise Irreversible(
                f"'{step.sources[0]}' is rounded from {inputs[0].dtype} to {self.dtype}"
            )
        return step.back(Cast(inputs[0].dtype))

    def describe(self) -> str:
        return f"to {self.dtype}"


def cast(specs: Schemas, pattern: str, dtype: object, *, optional: bool) -> tuple[Step, ...]:
    """Every match in the given dtype; sub-byte dtypes cannot be cast."""
    chosen = parse_dtype(dtype)
    matches = select(pattern, specs, optional=optional)
    for match in matches:
        old = specs[match.name].dtype
        if old != chosen and (min(old.bits, chosen.bits) < 8 or old.kind != chosen.kind == "bool"):
            raise refuse(
                "CKM527",
                f"'{match.name}' cannot be cast from {old} to {chosen}",
                why="Only whole-byte dtypes are converted, and a number is not a truth value.",
                fix="Use compute() with a function that says how the values change.",
            )
    return tuple(in_place(match.name, Cast(chosen)) for match in matches)
