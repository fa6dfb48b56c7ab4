"""Part of a tensor, or a larger one around it: slice, crop, pad, centre a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.operations.matching import select
from ckmigrate.operations.rearrange import ShapeLike, resolve_shape
from ckmigrate.scalar import Number, encode_element
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Irreversible, Schemas, Step, in_place, refuse, resolve_dim

__all__ = ["Anchor", "Cut", "Window", "resize", "slice_"]

Anchor = Literal["start", "center", "end"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Along one dimension: keep `length` elements from `start`, with fill around them."""

    start: int
    length: int
    before: int = 0
    after: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One cut per dimension; new places hold the fill element."""

    cuts: tuple[Cut, ...]
    element: bytes

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        result = inputs[0]
        for dim, cut in enumerate(self.cuts):
            result = ex.slice_(result, dim, cut.start, cut.start + cut.length)
        for dim, cut in enumerate(self.cuts):
            result = self._pad(result, dim, cut)
        return (result,)

    def _pad(self, inner: Expr, dim: int, cut: Cut) -> Expr:
        def border(size: int) -> Expr:
            shape = (*inner.spec.shape[:dim], size, *inner.spec.shape[dim + 1 :])
            return ex.fill(self.element, TensorSpec(inner.spec.dtype, shape))

        if not cut.before and not cut.after:
            return inner
        return ex.concat([border(cut.before), inner, border(cut.after)], dim)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        kept = [cut.length for cut in self.cuts]
        if kept != list(inputs[0].shape):
            raise Irreversible(f"part of '{step.sources[0]}' is cut off and not kept anywhere")
        return step.back(Window(tuple(Cut(c.before, c.length) for c in self.cuts), self.element))

    def describe(self) -> str:
        words = []
        for dim, cut in enumerate(self.cuts):
            if cut.before or cut.after:
                words.append(f"dim {dim} +{cut.before}+{cut.after}")
            elif cut.start:
                words.append(f"dim {dim} [{cut.start}:{cut.start + cut.length}]")
        return ", ".join(words)


def slice_(
    specs: Schemas, pattern: str, *, dim: int, start: int, stop: int | None, optional: bool
) -> tuple[Step, ...]:
    """Keep start … stop (exclusive) along dim; negative positions count from the end."""
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        axis = resolve_dim(dim, spec, match.name)
        size = spec.shape[axis]
        first = start + size if start < 0 else start
        last = size if stop is None else stop + size if stop < 0 else stop
        if not 0 <= first <= last <= size:
            raise refuse(
                "CKM521",
                f"cannot slice '{match.name}' along dim {axis} from {start} to {stop}",
                why=f"Its size there is {size}.",
                fix=f"Give 0 ≤ start ≤ stop ≤ {size}.",
            )
        cuts = [Cut(0, n) for n in spec.shape]
        cuts[axis] = Cut(first, last - first)
        steps.append(in_place(match.name, Window(tuple(cuts), unused_element(spec))))
    return tuple(steps)


def resize(
    specs: Schemas,
    pattern: str,
    shape: ShapeLike,
    *,
    fill: Number,
    anchor: Anchor,
    optional: bool,
) -> tuple[Step, ...]:
    """Crop or pad each dimension to the new size; `anchor` says which part stays in place."""
    if anchor not in ("start", "center", "end"):
        raise refuse(
            "CKM532",
            f"anchor={anchor!r} is not known",
            why="The old values can stay at the start, the center or the end.",
            fix='Give anchor="start", "center" or "end".',
        )
    steps = []
    for match in select(pattern, specs, optional=optional):
        spec = specs[match.name]
        sizes = resolve_shape(match.name, specs, shape)
        if len(sizes) != spec.ndim or any(size < 0 for size in sizes):
            raise refuse(
                "CKM524",
                f"cannot resize '{match.name}' to [{','.join(map(str, sizes))}]",
                why=f"It is {spec}; resize keeps the number of dimensions.",
                fix=f"Give {spec.ndim} sizes; reshape() changes the number of dimensions.",
            )
        cuts = tuple(_cut(o, n, anchor) for o, n in zip(spec.shape, sizes, strict=True))
        grows = any(new > old for old, new in zip(spec.shape, sizes, strict=True))
        element = _element(fill, spec, match.name) if grows else unused_element(spec)
        steps.append(in_place(match.name, Window(cuts, element)))
    return tuple(steps)


def _cut(old: int, new: int, anchor: Anchor) -> Cut:
    extra = abs(new - old)
    before = {"start": 0, "center": extra // 2, "end": extra}[anchor]
    if new >= old:
        return Cut(0, old, before, extra - before)
    return Cut(before, new)


def unused_element(spec: TensorSpec) -> bytes:
    """Where nothing is filled in: some dtypes cannot hold the 0 that is the default."""
    return bytes(max(1, spec.dtype.bits // 8))


def _element(value: Number, spec: TensorSpec, name: str) -> bytes:
    try:
        return encode_element(value, spec.dtype)
    except (ValueError, OverflowError) as error:
        raise refuse(
            "CKM527",
            f"'{name}' cannot be filled with {value!r}",
            why=f"{error}; the tensor is {spec}.",
            fix="Give a value that the dtype can hold.",
        ) from None
