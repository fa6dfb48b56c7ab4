"""The same elements in another shape or order: reshape, squeeze, permute, einops notation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.operations.einops_pattern import parse_rearrangement
from ckmigrate.operations.matching import select
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step, in_place, refuse, resolve_dim

__all__ = [
    "Rearrange",
    "flatten",
    "permute",
    "rearrange",
    "reshape",
    "squeeze",
    "transpose",
    "unsqueeze",
]

ShapeLike = Sequence[int] | Callable[[TensorSpec], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Rearrange:
    """View the tensor as `factors`, put those dimensions in `order`, read the result as `shape`."""

    factors: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        moved = ex.permute(ex.reshape(inputs[0], self.factors), self.order)
        return (ex.reshape(moved, self.shape),)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        order = tuple(self.order.index(i) for i in range(len(self.order)))
        factors = tuple(self.factors[d] for d in self.order)
        return step.back(Rearrange(factors, order, inputs[0].shape))

    def describe(self) -> str:
        moves = [d for d in self.order if self.factors[d] != 1]
        if moves == sorted(moves):
            return ""
        return f"order ({','.join(map(str, self.order))}) of [{','.join(map(str, self.factors))}]"


def reshape(specs: Schemas, pattern: str, shape: ShapeLike, *, optional: bool) -> tuple[Step, ...]:
    """Same elements in row-major order; one size may be -1."""
    return tuple(
        in_place(m.name, _reshaped(m.name, specs[m.name], resolve_shape(m.name, specs, shape)))
        for m in select(pattern, specs, optional=optional)
    )


def _reshaped(name: str, spec: TensorSpec, shape: tuple[int, ...]) -> Rearrange:
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known and spec.numel % known == 0:
        shape = tuple(spec.numel // known if size == -1 else size for size in shape)
    if any(size < 0 for size in shape) or math.prod(shape) != spec.numel:
        raise refuse(
            "CKM524",
            f"cannot reshape '{name}' to [{','.join(map(str, shape))}]",
            why=f"It is {spec}, {spec.numel} elements; the new shape has {math.prod(shape)}.",
            fix="Give a shape with as many elements; resize() changes the number of elements.",
        )
    return Rearrange(spec.shape, tuple(range(spec.ndim)), shape)


def resolve_shape(name: str, specs: Schemas, shape: ShapeLike) -> tuple[int, ...]:
    """The sizes that were given, or that the script's function gives for this tensor."""
    found = shape(specs[name]) if callable(shape) else shape
    sizes = tuple(found) if isinstance(found, Sequence) else (found,)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise refuse(
            "CKM532",
            f"the shape for '{name}' is {found!r}",
            why="A shape is a sequence of whole numbers.",
            fix="Give for example (64, 3, 3), or a function of the tensor that returns it.",
        )
    return sizes


def squeeze(specs: Schemas, pattern: str, dim: int, *, optional: bool) -> tuple[Step, ...]:
    """Remove one dimension of size 1."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        axis = resolve_dim(dim, spec, match.name)
        if spec.shape[axis] != 1:
            raise refuse(
                "CKM524",
                f"cannot squeeze dim {axis} of '{match.name}'",
                why=f"It is {spec}; only a dimension of size 1 can be removed.",
                fix="Name a dimension of size 1, or reshape.",
            )
        shape = (*spec.shape[:axis], *spec.shape[axis + 1 :])
        steps.append(in_place(match.name, _reshaped(match.name, spec, shape)))
    return tuple(steps)


def unsqueeze(specs: Schemas, pattern: str, dim: int, *, optional: bool) -> tuple[Step, ...]:
    """Add a dimension of size 1 before `dim`."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        axis = resolve_dim(dim, spec, match.name, extra=1)
        shape = (*spec.shape[:axis], 1, *spec.shape[axis:])
        steps.append(in_place(match.name, _reshaped(match.name, spec, shape)))
    return tuple(steps)


def flatten(
    specs: Schemas, pattern: str, start: int, end: int, *, optional: bool
) -> tuple[Step, ...]:
    """Merge the dimensions start … end (both included) into one."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        if spec.ndim == 0:
            shape: tuple[int, ...] = (1,)
        else:
            first = resolve_dim(start, spec, match.name)
            last = resolve_dim(end, spec, match.name)
            if first > last:
                raise refuse(
                    "CKM520",
                    f"cannot flatten '{match.name}' from dim {first} to dim {last}",
                    why="The first dimension lies behind the last.",
                    fix="Exchange start and end.",
                )
            merged = math.prod(spec.shape[first : last + 1])
            shape = (*spec.shape[:first], merged, *spec.shape[last + 1 :])
        steps.append(in_place(match.name, _reshaped(match.name, spec, shape)))
    return tuple(steps)


def permute(
    specs: Schemas, pattern: str, dims: Sequence[int], *, optional: bool
) -> tuple[Step, ...]:
    """Dimension i of the result is dimension dims[i] of the tensor."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        order = tuple(resolve_dim(dim, spec, match.name) for dim in dims)
        if sorted(order) != list(range(spec.ndim)):
            raise refuse(
                "CKM520",
                f"{tuple(dims)} is not an order of the dimensions of '{match.name}'",
                why=f"It is {spec}: each of {spec.ndim} dimensions must stand there once.",
                fix=f"Give {spec.ndim} different dimensions.",
            )
        shape = tuple(spec.shape[d] for d in order)
        steps.append(in_place(match.name, Rearrange(spec.shape, order, shape)))
    return tuple(steps)


def transpose(
    specs: Schemas, pattern: str, dim0: int, dim1: int, *, optional: bool
) -> tuple[Step, ...]:
    """Exchange two dimensions."""
    steps: list[Step] = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        a = resolve_dim(dim0, spec, match.name)
        b = resolve_dim(dim1, spec, match.name)
        order = [*range(spec.ndim)]
        order[a], order[b] = b, a
        shape = tuple(spec.shape[d] for d in order)
        steps.append(in_place(match.name, Rearrange(spec.shape, tuple(order), shape)))
    return tuple(steps)


def rearrange(
    specs: Schemas, pattern: str, equation: str, sizes: dict[str, int], *, optional: bool
) -> tuple[Step, ...]:
    """An einops equation, such as "(h two d) c -> (h d two) c" with h=8, two=2."""
    rearrangement = parse_rearrangement(equation)
    return tuple(
        in_place(m.name, Rearrange(*rearrangement.solve(m.name, specs[m.name], sizes)))
        for m in select(pattern, specs, optional=optional)
    )
