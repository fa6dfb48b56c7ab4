"""What `ck["name"]` gives a script: a tensor that has a shape and a dtype but no values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ckmigrate import expr as ex
from ckmigrate.expr import Expr
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import refuse

__all__ = ["SymbolicTensor", "concat", "stack"]


@dataclass(frozen=True, slots=True, eq=False)
class SymbolicTensor:
    """A tensor of the symbolic checkpoint; every method gives a new one.

    It has no values: a conversion to a truth value or a number raises, because a migration may
    branch on names, shapes and metadata only. `taken` holds the marks of the `take` calls that are
    part of it.
    """

    expr: Expr
    name: str = "tensor"
    taken: frozenset[object] = frozenset()

    @property
    def spec(self) -> TensorSpec:
        return self.expr.spec

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> DType:
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        return self.spec.ndim

    @property
    def numel(self) -> int:
        return self.spec.numel

    def __bool__(self) -> bool:
        raise self._no_values()

    def __float__(self) -> float:
        raise self._no_values()

    def __int__(self) -> int:
        raise self._no_values()

    def __eq__(self, other: object) -> bool:
        raise self._no_values()

    def __lt__(self, other: object) -> bool:
        raise self._no_values()

    __le__ = __gt__ = __ge__ = __lt__
    __hash__ = object.__hash__

    def _no_values(self) -> Exception:
        return refuse(
            "CKM533",
            f"'{self.name}' has no values while the migration is planned",
            why="A script may branch on names, shapes and metadata, never on values.",
            fix="Move what depends on values into compute().",
        )

    def _from(self, expr: Expr) -> SymbolicTensor:
        return SymbolicTensor(expr, self.name, self.taken)

    def reshape(self, *shape: int | Sequence[int]) -> SymbolicTensor:
        """The same elements in row-major order; one size may be -1."""
        sizes = self._sizes(shape)
        known = math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) == 1 and known and self.numel % known == 0:
            sizes = tuple(self.numel // known if size == -1 else size for size in sizes)
        if any(size < 0 for size in sizes) or math.prod(sizes) != self.numel:
            raise self._misfit(f"cannot be reshaped to {sizes}")
        return self._from(ex.reshape(self.expr, sizes))

    def flatten(self, start: int = 0, end: int = -1) -> SymbolicTensor:
        """Dimensions start … end (both included) merged into one."""
        if self.ndim == 0:
            return self.reshape(1)
        first, last = self._dim(start), self._dim(end)
        if first > last:
            raise self._misfit(f"cannot be flattened from dim {first} to dim {last}")
        merged = math.prod(self.shape[first : last + 1])
        return self.reshape(*self.shape[:first], merged, *self.shape[last + 1 :])

    def squeeze(self, dim: int) -> SymbolicTensor:
        """Without one dimension of size 1."""
        axis = self._dim(dim)
        if self.shape[axis] != 1:
            raise self._misfit(f"cannot be squeezed along dim {axis}")
        return self.reshape(*self.shape[:axis], *self.shape[axis + 1 :])

    def unsqueeze(self, dim: int) -> SymbolicTensor:
        """With a dimension of size 1 before `dim`."""
        axis = self._dim(dim, extra=1)
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def permute(self, *dims: int | Sequence[int]) -> SymbolicTensor:
        """Dimension i of the result is dimension dims[i]."""
        order = tuple(self._dim(dim) for dim in self._sizes(dims))
        if sorted(order) != list(range(self.ndim)):
            raise self._misfit(f"cannot be permuted by {order}")
        return self._from(ex.permute(self.expr, order))

    def transpose(self, dim0: int, dim1: int) -> SymbolicTensor:
        """Two dimensions exchanged."""
        order = [*range(self.ndim)]
        a, b = self._dim(dim0), self._dim(dim1)
        order[a], order[b] = b, a
        return self.permute(*order)

    def cast(self, dtype: object) -> SymbolicTensor:
        """The values in another dtype."""
        from ckmigrate.operations.init import parse_dtype

        return self._from(ex.cast(self.expr, parse_dtype(dtype)))

    def __getitem__(self, key: object) -> SymbolicTensor:
        """Slices with positive steps, whole numbers and one `...`, as in torch."""
        items = list(key) if isinstance(key, tuple) else [key]
        if items.count(...) == 1:
            place = items.index(...)
            items[place : place + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        if len(items) > self.ndim:
            raise self._misfit(f"cannot be indexed with {len(items)} subscripts")
        result, gone = self.expr, []
        for dim, item in enumerate(items):
            start, stop, step = self._range(item, dim)
            result = ex.slice_(result, dim, start, max(start, stop), step)
            if isinstance(item, int):
                gone.append(dim)
        kept = tuple(n for dim, n in enumerate(result.spec.shape) if dim not in gone)
        return self._from(ex.reshape(result, kept))

    def _range(self, item: object, dim: int) -> tuple[int, int, int]:
        size = self.shape[dim]
        if isinstance(item, slice):
            step = 1 if item.step is None else item.step
            if isinstance(step, int) and step > 0:
                return item.indices(size)
        elif isinstance(item, int) and not isinstance(item, bool) and -size <= item < size:
            return item % size, item % size + 1, 1
        raise self._misfit(f"cannot be indexed with {item!r} along dim {dim}")

    def _dim(self, dim: object, *, extra: int = 0) -> int:
        count = self.ndim + extra
        if not isinstance(dim, int) or not -count <= dim < count:
            raise self._misfit(f"has no dimension {dim!r}")
        return dim % count

    def _sizes(self, values: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
        one = values[0] if len(values) == 1 else values
        found = tuple(one) if isinstance(one, Sequence) else (one,)
        sizes = tuple(size for size in found if type(size) is int)
        if len(sizes) != len(found):
            raise self._misfit(f"takes whole numbers, not {found}")
        return sizes

    def _misfit(self, what: str) -> Exception:
        return refuse(
            "CKM524",
            f"'{self.name}' {what}",
            why=f"It is {self.spec}.",
            fix="Use sizes and dimensions that fit its shape.",
        )


def concat(tensors: Sequence[SymbolicTensor], dim: int = 0) -> SymbolicTensor:
    """Tensors of one dtype, equal in every other dimension, along dim."""
    first = _require_tensors(tensors)
    axis = first._dim(dim)
    for other in tensors:
        shape = (*other.shape[:axis], first.shape[axis], *other.shape[axis + 1 :])
        if other.dtype != first.dtype or other.ndim != first.ndim or shape != first.shape:
            raise first._misfit(f"cannot be joined with '{other.name}', which is {other.spec},")
    taken = frozenset[object]().union(*(tensor.taken for tensor in tensors))
    return SymbolicTensor(ex.concat([tensor.expr for tensor in tensors], axis), first.name, taken)


def stack(tensors: Sequence[SymbolicTensor], dim: int = 0) -> SymbolicTensor:
    """Tensors of one spec along a new dimension."""
    first = _require_tensors(tensors)
    return concat([tensor.unsqueeze(dim) for tensor in tensors], first._dim(dim, extra=1))


def _require_tensors(tensors: Sequence[SymbolicTensor]) -> SymbolicTensor:
    if not tensors or not all(isinstance(tensor, SymbolicTensor) for tensor in tensors):
        raise refuse(
            "CKM532",
            f"concat and stack take a list of tensors of the checkpoint, got {tensors!r}",
            why="At least one tensor is needed, and each comes from ck[…] or ck.take(…).",
            fix='Write for example concat([ck.take("a"), ck.take("b")], dim=0).',
        )
    return tensors[0]
