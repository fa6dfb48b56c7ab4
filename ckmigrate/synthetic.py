"""Checkpoints without a training run: tensors whose elements can be told apart.

Elements are numbered through all tensors of one dtype; the number of an element decides its bits
(`ckmigrate.element_bits`), so a value that turns up somewhere says where it came from.

Claims of a migration about values (`drop(expect=…)`, `merge_equal`) are met: elements that must be
equal get one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckmigrate.element_bits import bits_of, packed, pool_type
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.execute.items import contiguous
from ckmigrate.expr import Cast, Concat, Expr, Fill, Reshape, Source, View, is_structural
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check
from ckmigrate.ties import Ties

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["NEW", "Numbering", "Values", "element_numbers", "numbering", "synthetic_values"]

NEW = -(1 << 62)
"""The number of an element that no tensor had before: drawn at random, or computed."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """Where the elements of each tensor begin in one count through all of them.

    first   number of a source's first element, by its name; tensors of one dtype are neighbours
    begins  number of the first element of each dtype
    total   how many there are
    """

    first: Mapping[str, int]
    begins: Mapping[DType, int]
    total: int

    def name_of(self, number: int) -> tuple[str, int]:
        """The source that an element belongs to, and its place in that tensor's row-major data."""
        name = max(
            (name for name, first in self.first.items() if first <= number),
            key=lambda name: self.first[name],
        )
        return name, number - self.first[name]


@dataclass(frozen=True, slots=True)
class Values:
    """The elements of a synthetic checkpoint.

    pools      opaque items by dtype, in the order of the numbering; a F4 element is an item too
    unmet      claims that no choice of values is known to meet, since they are about computed ones
    constants  elements that claims name
    same       for each constant, then for each element, the smallest one that claims make equal to
               it; None where there are no claims
    """

    numbering: Numbering
    pools: Mapping[DType, Array]
    unmet: tuple[str, ...] = ()
    constants: tuple[bytes, ...] = ()
    same: Array | None = None

    def unequal(self, one: Expr, other: Expr) -> Array:
        """Where two structural expressions of one shape stand for different elements, of which
        narrow dtypes may have equal bits; row-major."""
        constants = list(self.constants)
        sides = [element_numbers(e, self.numbering, constants).reshape(-1) for e in (one, other)]
        left, right = (self._smallest(side) for side in sides)
        differ: Array = left != right
        return differ

    def _smallest(self, numbers: Array) -> Array:
        import numpy as np

        if self.same is None:
            return numbers
        known = len(self.constants)
        places = np.where(numbers < 0, -1 - numbers, numbers + known)
        # A constant that no claim names is equal to itself alone.
        is_known = (numbers >= 0) | (places < known)
        return np.where(is_known, self.same[np.where(is_known, places, 0)], numbers)

    def items(self, source: Source) -> Array:
        """The row-major elements of a source."""
        dtype = source.spec.dtype
        first = self.numbering.first[source.name] - self.numbering.begins[dtype]
        return self.pools[dtype][first : first + source.spec.numel]

    def data(self, expr: Expr, evaluator: Evaluator | None = None) -> bytes:
        """The bytes that an expression stands for, worked out from element numbers wherever it
        only moves elements, and by the functions of the scripts elsewhere."""
        if is_structural(expr):
            return packed(self._moved(expr), expr.spec.dtype)
        used = evaluator or self.evaluator((expr,))
        data: bytes = contiguous(used.evaluate(expr)).reshape(-1).tobytes()
        return data

    def evaluator(self, expressions: Iterable[Expr]) -> Evaluator:
        """One that computes each call once for all of these."""
        spans: dict[str, Array] = {}

        def read(name: str, first: int, count: int) -> bytes:
            data: bytes = spans[name][first : first + count].tobytes()
            return data

        evaluator = Evaluator(read)
        for expr in expressions:
            if not is_structural(expr):
                evaluator.expect(expr)
        for dtype, pool in self.pools.items():
            begin = self.numbering.begins[dtype]
            for name, first in self.numbering.first.items():
                if begin <= first < begin + len(pool):
                    spans[name] = pool[first - begin :]
        return evaluator

    def _moved(self, expr: Expr) -> Array:
        import numpy as np

        constants: list[bytes] = []
        numbers = element_numbers(expr, self.numbering, constants).reshape(-1)
        kind = pool_type(expr.spec.dtype)
        begin = self.numbering.begins.get(expr.spec.dtype, 0)
        result = np.empty(numbers.shape, kind)
        moved = numbers >= 0
        if moved.any():
            result[moved] = self.pools[expr.spec.dtype][numbers[moved] - begin]
        for index, element in enumerate(constants):
            result[numbers == -1 - index] = np.frombuffer(element, kind)[0]
        return result


def numbering(sources: Mapping[str, TensorSpec]) -> Numbering:
    """Count the elements of these tensors, dtype by dtype."""
    first: dict[str, int] = {}
    begins: dict[DType, int] = {}
    total = 0
    for dtype in DType:
        for name, spec in sources.items():
            if spec.dtype is dtype:
                begins.setdefault(dtype, total)
                first[name] = total
                total += spec.numel
    return Numbering(first, begins, total)


def synthetic_values(
    schema: Mapping[str, TensorSpec], *, ties: Ties = (), checks: Sequence[Check] = ()
) -> Values:
    """Values for the tensors of a schema, a tied group being one, that meet these claims."""
    import numpy as np

    seconds = {name for group in ties for name in group[1:]}
    counted = numbering({name: spec for name, spec in schema.items() if name not in seconds})
    unmet, constants, labels = _united(checks, counted)
    pools: dict[DType, Array] = {}
    borders = [*counted.begins.values(), counted.total]
    for (dtype, begin), end in zip(counted.begins.items(), borders[1:], strict=True):
        number = np.arange(end - begin, dtype=np.uint64)
        if labels is not None:
            same = labels[len(constants) + begin : len(constants) + end]
            number = np.maximum(same - len(constants) - begin, 0).astype(np.uint64)
        pool = bits_of(dtype, number)
        for index, element in enumerate(constants if labels is not None else ()):
            chosen = same == index
            if chosen.any():
                pool[chosen] = np.frombuffer(element, pool.dtype)[0]
        pools[dtype] = pool
    return Values(counted, pools, unmet, tuple(constants), labels)


def element_numbers(
    expr: Expr,
    counted: Numbering,
    constants: list[bytes],
    *,
    through_casts: bool = False,
) -> Array:
    """The number of the source element that stands at each place of an expression.

    -1 - i is element i of `constants`, which is added to; NEW is a value that nobody had before. A
    cast gives new values unless they are followed through it.
    """
    import numpy as np

    def inner(part: Expr) -> Array:
        return element_numbers(part, counted, constants, through_casts=through_casts)

    match expr:
        case Source():
            first = counted.first[expr.name]
            return np.arange(first, first + expr.spec.numel).reshape(expr.spec.shape)
        case Fill():
            if expr.element not in constants:
                constants.append(expr.element)
            return np.full(expr.spec.shape, -1 - constants.index(expr.element))
        case View():
            return inner(expr.base).reshape(-1)[_places(expr)]
        case Reshape():
            return inner(expr.base).reshape(expr.spec.shape)
        case Concat():
            return np.concatenate([inner(part) for part in expr.parts], axis=expr.dim)
        case Cast() if through_casts:
            return inner(expr.base)
    return np.full(expr.spec.shape, NEW)


def _places(expr: View) -> Array:
    import numpy as np

    places: Array = np.array(expr.offset, dtype=np.int64)
    for size, stride in zip(expr.spec.shape, expr.strides, strict=True):
        places = places[..., None] + np.arange(size, dtype=np.int64) * stride
    return places


def _united(
    checks: Sequence[Check], counted: Numbering
) -> tuple[tuple[str, ...], list[bytes], Array | None]:
    """Claims that cannot be met, the constants in them, and for each constant, then each element,
    the smallest one that must equal it; None where there are no claims."""
    import numpy as np

    constants: list[bytes] = []
    pairs, unmet = [], []
    for check in checks:
        sides = [element_numbers(e, counted, constants) for e in (check.left, check.right)]
        left, right = (side.reshape(-1) for side in sides)
        if (left == NEW).any() or (right == NEW).any():
            unmet.append(check.claim)
        else:
            pairs.append((left, right))
    if not pairs:
        return tuple(unmet), constants, None
    known = len(constants)
    labels = np.arange(known + counted.total)
    changed = True
    while changed:
        before = labels.copy()
        for left, right in pairs:
            ones, others = (np.where(n < 0, -1 - n, n + known) for n in (left, right))
            least = np.minimum(labels[ones], labels[others])
            np.minimum.at(labels, ones, least)
            np.minimum.at(labels, others, least)
        labels = labels[labels]
        changed = bool((labels != before).any())
    return tuple(unmet), constants, labels
