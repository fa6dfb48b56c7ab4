"""The expression of a weight, on what belongs to the weights: copies of them.

State follows by substitution: where a new weight reads an old one, its state reads the state of
that one. Everything above the sources stays what it is, so that no operation knows about state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ckmigrate.errors import MigrationError
from ckmigrate.expr import (
    Call,
    Cast,
    Concat,
    Expr,
    Fill,
    Random,
    Reshape,
    Result,
    Source,
    View,
    call,
    cast,
    concat,
    fill,
    reshape,
    sources,
)
from ckmigrate.spec import TensorSpec
from ckmigrate.training.carried import Role

__all__ = ["Find", "State", "follow"]

Find = Callable[[str], Source | None]


@dataclass(frozen=True, slots=True)
class State:
    """The copies of all weights.

    find  a weight's name → its copy, of the weight's shape; None where it has none
    role  see `Role`

    Nodes that several weights share are followed once, so that a function is called once for all
    of its results.
    """

    find: Find
    role: Role = "value"
    memo: dict[int, tuple[Expr, Expr | None]] = field(default_factory=dict)
    calls: dict[int, tuple[Call, tuple[Expr, ...] | None]] = field(default_factory=dict)


def follow(expr: Expr, state: State) -> Expr | None:
    """The copy of a new weight whose expression is `expr`; None where a weight that it is made of
    has none.

    A copy keeps its dtype, unless it had the weight's: then it gets the weight's new one. What is
    new in a weight is new in its copy, with the same values.

    MigrationError CKM564 where the copies that one tensor is made of differ in dtype.
    """
    return _Walk(state).of(expr)


@dataclass(frozen=True, slots=True)
class _Walk:
    state: State

    def of(self, expr: Expr) -> Expr | None:
        # The node is kept too: an id is free again once its object is gone.
        if id(expr) not in self.state.memo:
            self.state.memo[id(expr)] = (expr, self.build(expr))
        return self.state.memo[id(expr)][1]

    def build(self, expr: Expr) -> Expr | None:
        match expr:
            case Source():
                found = self.state.find(expr.name)
                return expr if found == expr else found
            case Fill() | Random():
                return expr
            case Concat():
                return self._concat(expr)
            case Result():
                return self._result(expr)
        below = self.of(expr.base)
        if below is None or below is expr.base:
            return None if below is None else expr
        match expr:
            case View():
                return _viewed(below, expr)
            case Reshape():
                return reshape(below, expr.spec.shape)
            case Cast():
                had_the_same = below.spec.dtype is expr.base.spec.dtype
                return cast(below, expr.spec.dtype) if had_the_same else below

    def _concat(self, expr: Concat) -> Expr | None:
        parts = [self.of(part) for part in expr.parts]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return None
        if all(a is b for a, b in zip(found, expr.parts, strict=True)):
            return expr
        return concat(_of_one_dtype(found), expr.dim)

    def _result(self, expr: Result) -> Expr | None:
        if id(expr.call) not in self.state.calls:
            self.state.calls[id(expr.call)] = (expr.call, self._called(expr.call))
        results = self.state.calls[id(expr.call)][1]
        if results is None:
            return None
        found = results[expr.index]
        return expr if found == expr else found

    def _called(self, node: Call) -> tuple[Expr, ...] | None:
        """The same function on copies; of another dtype, its outputs are of that one too."""
        inputs = [self.of(item) for item in node.inputs]
        found = [item for item in inputs if item is not None]
        if len(found) < len(inputs):
            return None
        if all(a is b for a, b in zip(found, node.inputs, strict=True)):
            specs = enumerate(node.outputs)
            return tuple(Result(node, index, spec) for index, spec in specs)
        pairs = zip(node.inputs, found, strict=True)
        dtypes = {old.spec.dtype: new.spec.dtype for old, new in pairs if sources(old)}
        kinds = [dtypes.get(spec.dtype, spec.dtype) for spec in node.outputs]
        outputs = [TensorSpec(k, s.shape) for k, s in zip(kinds, node.outputs, strict=True)]
        return call(node.function, found, outputs, node.label, node.key)


def _viewed(base: Expr, view: View) -> Expr:
    """The elements that a view takes, of another base of the same shape."""
    spec = TensorSpec(base.spec.dtype, view.spec.shape)
    match base:
        case Fill():
            return fill(base.element, spec)
        case Cast():
            return cast(_viewed(base.base, view), base.spec.dtype)
        case Source() | Random() | Result() | Reshape():
            return View(base, view.offset, view.strides, spec)
    raise AssertionError(base)


def _of_one_dtype(parts: list[Expr]) -> list[Expr]:
    """The parts of one tensor, with constants in the dtype of what is beside them."""
    dtypes = dict.fromkeys(part.spec.dtype for part in parts if sources(part))
    if len(dtypes) > 1:
        listed = ", ".join(map(str, dtypes))
        raise MigrationError(
            "CKM564",
            f"the copies of parts of one tensor have several dtypes: {listed}",
            why="The weights that are joined have one dtype, their copies have not.",
            fix="Leave the copies out: --ema drop.",
        )
    return [cast(part, next(iter(dtypes))) for part in parts]
