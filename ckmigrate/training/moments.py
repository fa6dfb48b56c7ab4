"""Moments of a parameter, from the moments of the parameters that it was made of.

What a migration did to a weight is one expression over the old weights. Its moments are the same
expression over theirs: an element of a moment belongs to an element of its weight, wherever that
went. Two things differ. Elements that are new have no past, so that their moments are those of a
fresh optimizer; and what a function of `compute` means for moments, only its author can say
(`moments=`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Call, Cast, Concat, Expr, Fill, Random, Reshape, Result, Source, View
from ckmigrate.scalar import Number, encode_element
from ckmigrate.spec import DType, TensorSpec

__all__ = ["Moments", "reached"]

Find = Callable[[str], Source | None]


def _nowhere(call: Call) -> str | None:
    return None


def reached(expr: Expr) -> Iterator[str]:
    """The weights whose moments may be in those of `expr`; calls that reset them end the way."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Source):
            yield node.name
        elif isinstance(node, Result):
            if node.call.moments != "reset" and id(node.call) not in seen:
                seen.add(id(node.call))
                stack += reversed(node.call.inputs)
        else:
            stack += reversed(ex.children(node))


@dataclass(frozen=True, slots=True)
class Moments:
    """One kind of moments of all parameters, such as every `exp_avg`.

    find          a weight's name → its moments, of the weight's shape; None where it has none yet
    name          what the optimizer calls them
    fresh         what they are where a parameter is new
    is_parameter  whether a weight is one that the optimizer holds
    place         script and line of a call, for errors
    """

    find: Find
    name: str
    fresh: Number
    is_parameter: Callable[[str], bool]
    place: Callable[[Call], str | None] = _nowhere
    _done: dict[tuple[int, DType], tuple[Expr, Expr]] = field(default_factory=dict)
    _calls: dict[tuple[int, DType], Call] = field(default_factory=dict)

    def __call__(self, expr: Expr) -> Expr | None:
        """The moments of a new weight whose expression is `expr`; None where it has none.

        A weight that is all new has none, as in a fresh optimizer; in another one, a part that is
        new begins like that. The dtype is that of the old moments; where it was the weight's, it
        stays the weight's.

        MigrationError: CKM562 a function without `moments=`, CKM568 `moments="same"` of other
        shapes, CKM564 moments of several dtypes in one weight.
        """
        names = list(dict.fromkeys(reached(expr)))
        if all(self.find(name) is None for name in names):
            return None
        return self._of(expr, self._dtype(expr))

    def _dtype(self, expr: Expr) -> DType:
        wanted: dict[DType, str] = {}
        for leaf in (node for node in ex.walk(expr) if isinstance(node, Source)):
            found = self.find(leaf.name)
            if found is not None:
                own = found.spec.dtype != leaf.spec.dtype
                wanted.setdefault(found.spec.dtype if own else expr.spec.dtype, leaf.name)
        if len(wanted) == 1:
            return next(iter(wanted))
        raise MigrationError(
            "CKM564",
            f"{self.name} of parameters that become one has several dtypes",
            details=tuple(f"{name}: {dtype}" for dtype, name in wanted.items()),
            why="One tensor has one dtype, and which of them to round is not ours to decide.",
            fix="Leave the state out: --optimizer drop.",
        )

    def _of(self, node: Expr, dtype: DType) -> Expr:
        """In one dtype; a node that several weights share is followed once."""
        key = (id(node), dtype)
        if key not in self._done:  # the node is kept too: an id lasts as long as its object
            self._done[key] = (node, self._follow(node, dtype))
        return self._done[key][1]

    def _follow(self, node: Expr, dtype: DType) -> Expr:
        match node:
            case Source():
                found = self.find(node.name)
                return self._new(node, dtype) if found is None else ex.cast(found, dtype)
            case Fill() | Random():
                return self._new(node, dtype)
            case View():
                return _viewed(self._of(node.base, dtype), node)
            case Reshape():
                return ex.reshape(self._of(node.base, dtype), node.spec.shape)
            case Concat():
                return ex.concat([self._of(part, dtype) for part in node.parts], node.dim)
            case Cast():
                return self._of(node.base, dtype)
            case Result():
                return self._result(node, dtype)

    def _new(self, node: Expr, dtype: DType) -> Expr:
        return ex.fill(encode_element(self.fresh, dtype), TensorSpec(dtype, node.spec.shape))

    def _result(self, node: Result, dtype: DType) -> Expr:
        rule = node.call.moments
        if rule == "reset":
            return self._new(node, dtype)
        if rule == "same":
            return self._of(self._alike(node), dtype)
        if rule is None:
            raise self._without_rule(node.call)
        key = (id(node.call), dtype)
        if key not in self._calls:
            self._calls[key] = self._call(node.call, rule, dtype)
        return Result(self._calls[key], node.index, self._calls[key].outputs[node.index])

    def _call(self, call: Call, rule: Callable[..., object], dtype: DType) -> Call:
        """The author's function on moments; what has none, such as a buffer, it gets as it is."""
        given = [self._of(item, dtype) if self._has(item) else item for item in call.inputs]
        outputs = tuple(TensorSpec(dtype, spec.shape) for spec in call.outputs)
        label = f"moments of {call.label} ({self.name})"
        return Call(functools.partial(rule, self.name), tuple(given), outputs, label, call.key)

    def _has(self, item: Expr) -> bool:
        return any(self.is_parameter(name) for name in ex.sources(item))

    def _alike(self, node: Result) -> Expr:
        inputs = [item for item in node.call.inputs if self._has(item)]
        alike = [item for item in inputs if item.spec.shape == node.spec.shape]
        if len(alike) == 1:
            return alike[0]
        shapes = ", ".join(str(list(item.spec.shape)) for item in inputs)
        raise MigrationError(
            "CKM568",
            f'moments="same" does not say which moments {node.call.label} keeps',
            where=self.place(node.call),
            why=f"Output {node.index} has the shape {list(node.spec.shape)}, which {len(alike)} of "
            f"the parameters that went in have ({shapes}).",
            fix='Give moments="reset", or a function: moments=lambda name, *tensors: ….',
        )

    def _without_rule(self, call: Call) -> MigrationError:
        return MigrationError(
            "CKM562",
            f"{call.label} does not say what becomes of {self.name} in the optimizer",
            where=self.place(call),
            why="A function of weights is none of averages of gradients: where it multiplies the "
            "weights, gradients are divided, and their squares twice.",
            fix='Say it in the script: compute(…, moments="same") keeps them as they are, '
            'moments="reset" begins anew, moments=function computes them from the name, such as '
            '"exp_avg", and the tensors. Or leave the state out: --optimizer drop.',
        )


def _viewed(base: Expr, node: View) -> Expr:
    """The elements that a view takes, of what its base has become."""
    spec = TensorSpec(base.spec.dtype, node.spec.shape)
    match base:
        case Fill():
            return ex.fill(base.element, spec)
        case Cast():
            return ex.cast(_viewed(base.base, node), base.spec.dtype)
        case View() | Concat():  # a view counts the elements in their order
            base = Reshape(base, base.spec)
    return View(base, node.offset, node.strides, spec)
