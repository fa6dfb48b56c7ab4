"""Entries that a script writes as expressions, and takes to write them."""

from __future__ import annotations

from dataclasses import dataclass

from ckmigrate.expr import Expr
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Irreversible, Step

__all__ = ["Assign", "Taken"]


@dataclass(frozen=True, slots=True)
class Assign:
    """An expression of the script's own."""

    value: Expr

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (self.value,)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        raise Irreversible(f"'{step.targets[0]}' is assigned by an expression")

    def describe(self) -> str:
        return "expression"


@dataclass(frozen=True, slots=True)
class Taken:
    """The entry goes into expressions that are assigned."""

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return ()

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        raise Irreversible(f"'{step.sources[0]}' is taken into an expression")

    def describe(self) -> str:
        return "taken"
