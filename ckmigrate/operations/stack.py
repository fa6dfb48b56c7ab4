"""Many tensors ↔ one with a new dimension, such as experts kept apart ↔ fused."""

from __future__ import annotations

from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.names import compile_pattern, substitute
from ckmigrate.operations.matching import select, stack_groups
from ckmigrate.operations.split import _require_alike
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step, refuse, resolve_dim

__all__ = ["Stack", "Unstack", "stack", "unstack"]


@dataclass(frozen=True, slots=True)
class Stack:
    """`count` tensors of one shape into one with a new dimension."""

    dim: int
    count: int

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        shape = inputs[0].spec.shape
        row = (*shape[: self.dim], 1, *shape[self.dim :])
        return (ex.concat([ex.reshape(item, row) for item in inputs], self.dim),)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Unstack(self.dim, self.count))

    def describe(self) -> str:
        return f"{self.count} along a new dim {self.dim}"


@dataclass(frozen=True, slots=True)
class Unstack:
    """One tensor into one piece per index of a dimension, which disappears."""

    dim: int
    count: int

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        shape = inputs[0].spec.shape
        row = (*shape[: self.dim], *shape[self.dim + 1 :])
        return tuple(
            ex.reshape(ex.slice_(inputs[0], self.dim, index, index + 1), row)
            for index in range(self.count)
        )

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Stack(self.dim, self.count))

    def describe(self) -> str:
        return f"dim {self.dim} into {self.count}"


def stack(
    specs: Schemas, sources: str, target: str, *, dim: int, count: int | None, optional: bool
) -> tuple[Step, ...]:
    """Group sources by every capture but the one that the target lacks, which becomes the index."""
    steps = []
    for group in stack_groups(sources, target, specs, optional=optional):
        names = tuple(name for _, name in group.members)
        inputs = tuple(specs[name] for name in names)
        _require_alike(names, inputs, None)
        axis = resolve_dim(dim, inputs[0], names[0], extra=1)
        _require_count(group.target_name, len(names), count)
        steps.append(Step(names, (group.target_name,), Stack(axis, len(names))))
    return tuple(steps)


def unstack(
    specs: Schemas, source: str, targets: str, *, dim: int, count: int | None, optional: bool
) -> tuple[Step, ...]:
    """One target per index; the index is the capture that the source lacks."""
    known = set(compile_pattern(source).captures)
    extra = [c for c in compile_pattern(targets).captures if c not in known]
    if len(extra) != 1:
        raise refuse(
            "CKM532",
            f"unstack needs one capture in '{targets}' that '{source}' does not have",
            why=f"Found {len(extra)}: {', '.join(extra) or 'none'}.",
            fix='Name the index once, as in unstack("moe.w", "moe.experts.{e}.w").',
        )
    steps = []
    for match in select(source, specs, optional=optional):
        axis = resolve_dim(dim, specs[match.name], match.name)
        size = specs[match.name].shape[axis]
        _require_count(match.name, size, count)
        if not size:
            raise refuse(
                "CKM521",
                f"cannot unstack '{match.name}' along dim {axis} into no pieces",
                why=f"It is {specs[match.name]}: its size there is 0, and the entry would vanish.",
                fix="Drop it by name, with a reason.",
            )
        names = tuple(
            substitute(targets, {**match.captures, extra[0]: str(i)}) for i in range(size)
        )
        steps.append(Step((match.name,), names, Unstack(axis, size)))
    return tuple(steps)


def _require_count(name: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise refuse(
            "CKM521",
            f"'{name}' has {found} pieces, count={expected} was promised",
            why="The number of pieces in the checkpoint differs from the script's.",
            fix="Correct count=, or leave it out where the number may vary.",
        )
