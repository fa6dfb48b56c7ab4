"""Cut one tensor into several along a dimension, and join several into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.names import expand, substitute
from ckmigrate.operations.matching import groups, select
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step, refuse, resolve_dim

__all__ = ["Concat", "Split", "concat", "split"]


@dataclass(frozen=True, slots=True)
class Split:
    """One tensor into parts of the given sizes along dim."""

    dim: int
    sizes: tuple[int, ...]

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        parts, start = [], 0
        for size in self.sizes:
            parts.append(ex.slice_(inputs[0], self.dim, start, start + size))
            start += size
        return tuple(parts)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Concat(self.dim, self.sizes))

    def describe(self) -> str:
        return f"dim {self.dim} into {_sizes(self.sizes)}"


@dataclass(frozen=True, slots=True)
class Concat:
    """Parts of the given sizes along dim into one tensor."""

    dim: int
    sizes: tuple[int, ...]

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (ex.concat(inputs, self.dim),)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Split(self.dim, self.sizes))

    def describe(self) -> str:
        return f"dim {self.dim} from {_sizes(self.sizes)}"


def _sizes(sizes: tuple[int, ...]) -> str:
    if len(set(sizes)) == 1:
        return f"{len(sizes)} × {sizes[0]}"
    return " + ".join(map(str, sizes))


def split(
    specs: Schemas,
    source: str,
    targets: str | Sequence[str],
    *,
    dim: int,
    sizes: Sequence[int] | None,
    optional: bool,
) -> tuple[Step, ...]:
    """Every match of `source` into the target names, in their order."""
    patterns = members(targets, "targets")
    steps = []
    for match in select(source, specs, optional=optional):
        spec = specs[match.name]
        axis = resolve_dim(dim, spec, match.name)
        names = tuple(substitute(pattern, match.captures) for pattern in patterns)
        parts = _part_sizes(match.name, spec, axis, len(names), sizes)
        steps.append(Step((match.name,), names, Split(axis, parts)))
    return tuple(steps)


def _part_sizes(
    name: str, spec: TensorSpec, dim: int, count: int, sizes: Sequence[int] | None
) -> tuple[int, ...]:
    size = spec.shape[dim]
    if sizes is None:
        if size % count:
            raise refuse(
                "CKM521",
                f"cannot split '{name}' along dim {dim} into {count} equal parts",
                why=f"Its size there is {size}, and {size} is not a multiple of {count}.",
                fix=f"Give the sizes: sizes=({', '.join(['…'] * count)}), {size} together.",
            )
        return (size // count,) * count
    parts = tuple(sizes)
    whole = all(isinstance(p, int) and not isinstance(p, bool) and p >= 0 for p in parts)
    if len(parts) != count or not whole or sum(parts) != size:
        raise refuse(
            "CKM521",
            f"cannot split '{name}' along dim {dim} into sizes {parts}",
            why=f"Its size there is {size}; {len(parts)} sizes for {count} targets"
            + (f" add up to {sum(parts)}." if whole else ", and sizes are whole numbers."),
            fix=f"Give {count} sizes that add up to {size}.",
        )
    return parts


def members(patterns: str | Sequence[str], role: str) -> tuple[str, ...]:
    """One pattern with alternatives, or a sequence of patterns, as the patterns of the members."""
    found = expand(patterns) if isinstance(patterns, str) else tuple(patterns)
    if len(found) < 2 or not all(isinstance(item, str) for item in found):
        raise refuse(
            "CKM532",
            f"{role} names {len(found)} entry, at least two are needed",
            why=f"Got {patterns!r}.",
            fix='Write alternatives, "attn.{q,k,v}.weight", or a list of patterns.',
        )
    return found


def concat(
    specs: Schemas,
    sources: str | Sequence[str],
    target: str,
    *,
    dim: int,
    optional: bool,
) -> tuple[Step, ...]:
    """Every complete group of sources into one target."""
    steps = []
    for group in groups(members(sources, "sources"), specs, optional=optional):
        inputs = tuple(specs[name] for name in group.names)
        axis = resolve_dim(dim, inputs[0], group.names[0])
        _require_alike(group.names, inputs, axis)
        kernel = Concat(axis, tuple(spec.shape[axis] for spec in inputs))
        steps.append(Step(group.names, (substitute(target, group.captures),), kernel))
    return tuple(steps)


def _require_alike(names: tuple[str, ...], inputs: tuple[TensorSpec, ...], dim: int | None) -> None:
    """Equal dtype, and equal size everywhere but along dim (everywhere, where dim is None)."""

    def rest(spec: TensorSpec) -> tuple[object, ...]:
        kept = [size for axis, size in enumerate(spec.shape) if axis != dim]
        return (spec.dtype, spec.ndim, *kept)

    for name, spec in zip(names, inputs, strict=True):
        if rest(spec) != rest(inputs[0]):
            raise refuse(
                "CKM523",
                f"'{names[0]}' and '{name}' do not fit together",
                why=f"The first is {inputs[0]}, the second is {spec}.",
                fix="Bring them to one dtype and to equal sizes "
                + ("in every dimension." if dim is None else f"in every dimension but {dim}."),
            )
