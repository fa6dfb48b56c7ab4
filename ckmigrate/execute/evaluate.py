"""Evaluating expressions on opaque items: the one module that moves elements with numpy.

Elements are items of 1, 2, 4, 8 or 16 bytes whose bits nobody looks at, so NaN payloads, bool
bytes and every small float kind pass unchanged. Casts and functions are handed to torch, on the
same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckmigrate.execute.calls import cast_items, run_call
from ckmigrate.execute.items import contiguous, item_type, joined
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
    children,
    slice_,
    walk,
)

if TYPE_CHECKING:
    import numpy as np

    Items = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Evaluator", "chunks", "peak_cost"]

CHUNK_BYTES = 32 << 20
"""Bytes of output that are gathered at a time where the sources can be read in step with it."""


class Evaluator:
    """Evaluates expressions.

    `read(name, first, count)` gives the bytes of elements of a source's row-major data.
    Results of a call are kept until every output that `expect` announced has been taken.
    """

    def __init__(self, read: Callable[[str, int, int], bytes | memoryview]) -> None:
        self._read = read
        self._pending: dict[int, int] = {}
        self._results: dict[int, tuple[Items, ...]] = {}
        self._announced: set[int] = set()
        self._shared: dict[str, _Span] = {}
        self._held: dict[str, Items] = {}

    def expect(self, expr: Expr) -> None:
        """Announce that `expr` will be evaluated once; lets results be freed after last use."""
        stack: list[Expr] = [expr]
        while stack:
            node = stack.pop()
            if isinstance(node, Result):
                key = id(node.call)
                self._pending[key] = self._pending.get(key, 0) + 1
                if key in self._announced:
                    continue
                self._announced.add(key)
            stack.extend(children(node))

    def evaluate(self, expr: Expr) -> Items:
        """The tensor's elements as opaque items, in its shape; not always contiguous.

        A source that many parts read is read once.
        """
        self._shared = {name: span for name, span in _spans(expr).items() if span.is_shared}
        try:
            return self._evaluate(expr)
        finally:
            self._held.clear()

    def _evaluate(self, expr: Expr) -> Items:
        import numpy as np

        match expr:
            case Source():
                return self._window(expr, 0, expr.spec.numel).reshape(expr.spec.shape)
            case Fill():
                item = np.frombuffer(expr.element, dtype=item_type(expr.spec.dtype))
                return np.broadcast_to(item.reshape(()), expr.spec.shape)
            case Random():
                from ckmigrate.execute.random import draw

                return np.frombuffer(draw(expr), item_type(expr.spec.dtype)).reshape(
                    expr.spec.shape
                )
            case View():
                return self._view(expr)
            case Reshape():
                return contiguous(self._evaluate(expr.base)).reshape(expr.spec.shape)
            case Concat():
                return joined([self._evaluate(part) for part in expr.parts], expr.dim)
            case Cast():
                return cast_items(self._evaluate(expr.base), expr.base.spec, expr.spec)
            case Result():
                return self._result(expr)

    def _window(self, source: Source, first: int, count: int) -> Items:
        span = self._shared.get(source.name)
        if span is None:
            return self._load(source, first, count)
        if source.name not in self._held:
            held = self._load(source, span.first, span.last - span.first)
            held.flags.writeable = False
            self._held[source.name] = held
        return self._held[source.name][first - span.first : first - span.first + count]

    def _load(self, source: Source, first: int, count: int) -> Items:
        import numpy as np

        data = self._read(source.name, first, count)
        return np.frombuffer(data, dtype=item_type(source.spec.dtype))

    def _view(self, expr: View) -> Items:
        import numpy as np

        span = view_span(expr)
        offset = expr.offset
        if isinstance(expr.base, Source):
            flat, offset = self._window(expr.base, offset, span), 0
        else:
            flat = contiguous(self._evaluate(expr.base)).reshape(-1)
        steps = tuple(stride * flat.itemsize for stride in expr.strides)
        return np.lib.stride_tricks.as_strided(
            flat[offset : offset + span], expr.spec.shape, steps, writeable=flat.flags.writeable
        )

    def _result(self, expr: Result) -> Items:
        key = id(expr.call)
        if key not in self._results:
            inputs = [self._evaluate(item) for item in expr.call.inputs]
            self._results[key] = run_call(expr.call, inputs)
        value = self._results[key][expr.index]
        self._pending[key] = self._pending.get(key, 1) - 1
        if self._pending[key] <= 0:
            del self._results[key]
        return value


def chunks(expr: Expr) -> list[Expr]:
    """Pieces along dimension 0 to evaluate one after another, or the whole expression.

    Pieces are used only where together they read about as much as the whole does.
    """
    rows = expr.spec.shape[0] if expr.spec.ndim else 1
    pieces = min(rows, -(-expr.spec.nbytes // CHUNK_BYTES))
    if pieces <= 1 or any(_calls(expr)) or _draws(expr):
        return [expr]
    size = -(-rows // pieces)
    parts = [slice_(expr, 0, i, min(i + size, rows)) for i in range(0, rows, size)]
    whole = read_cost(expr)
    return parts if sum(map(read_cost, parts)) <= whole + whole // 4 else [expr]


def view_span(expr: View) -> int:
    """Elements of the base from the view's first to its last."""
    return 1 + sum((n - 1) * st for n, st in zip(expr.spec.shape, expr.strides, strict=True))


def read_cost(expr: Expr) -> int:
    """Bytes that evaluating the expression reads from the checkpoint."""
    return sum(_span_bytes(span) for span in _spans(expr).values())


def peak_cost(expr: Expr) -> int:
    """Bytes of memory that evaluating the expression takes at most, counted generously."""
    return read_cost(expr) + sum(map(_own_cost, walk(expr)))


def _own_cost(node: Expr) -> int:
    match node:
        case Random():
            return 8 * 8 * node.spec.numel
        case View() | Reshape() | Concat():
            return node.spec.nbytes
        case Cast():
            return 2 * node.spec.nbytes
        case Result():
            inputs = sum(item.spec.nbytes for item in node.call.inputs)
            return inputs + 3 * sum(spec.nbytes for spec in node.call.outputs)
        case _:
            return 0


@dataclass(slots=True)
class _Span:
    """What an expression reads of one source: elements first … last, `total` in all readings."""

    width: int
    first: int
    last: int
    total: int = 0
    readings: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether one reading of the whole span is cheaper than all the small ones."""
        return self.readings > 1 and self.last - self.first <= self.total


def _span_bytes(span: _Span) -> int:
    return min(span.total, span.last - span.first) * span.width // 8


def _spans(expr: Expr) -> dict[str, _Span]:
    found: dict[str, _Span] = {}
    below = 0
    for node in walk(expr):
        if isinstance(node, View) and isinstance(node.base, Source):
            source, first, count = node.base, node.offset, view_span(node)
            below = id(source)
        elif isinstance(node, Source):
            if below == id(node):
                below = 0
                continue
            source, first, count = node, 0, node.spec.numel
        else:
            continue
        span = found.setdefault(source.name, _Span(source.spec.dtype.bits, first, first))
        span.first, span.last = min(span.first, first), max(span.last, first + count)
        span.total, span.readings = span.total + count, span.readings + 1
    return found


def _calls(expr: Expr) -> Iterator[Call]:
    return (node.call for node in walk(expr) if isinstance(node, Result))


def _draws(expr: Expr) -> bool:
    return any(isinstance(node, Random) for node in walk(expr))
