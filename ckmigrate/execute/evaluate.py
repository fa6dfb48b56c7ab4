"""Evaluating expressions on opaque items: the one module that moves elements with numpy.

Elements are items of 1, 2, 4, 8 or 16 bytes whose bits nobody looks at, so NaN payloads, bool
bytes and every small float kind pass unchanged. Casts and functions are handed to torch, on the
same bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    children,
    slice_,
    walk,
)
from ckmigrate.spec import DType, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

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
                return self._evaluate(expr.base).reshape(expr.spec.shape)
            case Concat():
                return np.concatenate([self._evaluate(part) for part in expr.parts], expr.dim)
            case Cast():
                value = _to_torch(self._evaluate(expr.base), expr.base.spec)
                return _from_torch(value.to(_torch_dtype(expr.spec.dtype)), expr.spec)
            case Result():
                return self._result(expr)

    def _window(self, source: Source, first: int, count: int) -> Items:
        span = self._shared.get(source.name)
        if span is None:
            return self._load(source, first, count)
        if source.name not in self._held:
            self._held[source.name] = self._load(source, span.first, span.last - span.first)
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
            flat = np.ascontiguousarray(self._evaluate(expr.base)).reshape(-1)
        steps = tuple(stride * flat.itemsize for stride in expr.strides)
        return np.lib.stride_tricks.as_strided(
            flat[offset : offset + span], expr.spec.shape, steps, writeable=False
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


def run_call(node: Call, inputs: list[Items]) -> tuple[Items, ...]:
    """Call the function on real tensors and check that it kept its word about the outputs."""
    import torch

    tensors = [_to_torch(value, expr.spec) for value, expr in zip(inputs, node.inputs, strict=True)]
    try:
        # Same file, same scripts, same bytes; also where a claim works the values out again.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(node))
            answer = node.function(*tensors)
    except (Exception, SystemExit) as error:
        raise MigrationError(
            "CKM541",
            f"{node.label} raised {type(error).__name__}: {error}",
            why="The function of a compute step failed on the checkpoint's tensors.",
            fix="Correct the function in the script; nothing was written.",
        ) from error
    values = (answer,) if isinstance(answer, torch.Tensor) else answer
    if not isinstance(values, (tuple, list)) or len(values) != len(node.outputs):
        raise _broken_promise(node, f"{len(node.outputs)} tensors", repr(type(answer).__name__))
    return tuple(
        _checked(node, value, spec) for value, spec in zip(values, node.outputs, strict=True)
    )


def _seed(node: Call) -> int:
    text = f"{node.label}\n{node.key}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _checked(node: Call, value: object, spec: TensorSpec) -> Items:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _broken_promise(node, str(spec), type(value).__name__)
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        kind = "meta" if value.is_meta else "quantised" if value.is_quantized else value.layout
        raise _broken_promise(node, str(spec), f"a tensor that is not plain ({kind})")
    if str(value.dtype) != f"torch.{spec.dtype.torch_name}" or tuple(value.shape) != spec.shape:
        found = f"{value.dtype} [{','.join(map(str, value.shape))}]".removeprefix("torch.")
        raise _broken_promise(node, str(spec), found)
    return _from_torch(value.detach().cpu(), spec)


def _broken_promise(node: Call, expected: str, found: str) -> MigrationError:
    return MigrationError(
        "CKM542",
        f"{node.label} gave {found}, the plan says {expected}",
        why="Output shapes and dtypes are fixed when the migration is planned.",
        fix="Make the function return what `specs=` declares, whatever the values are.",
    )


def item_type(dtype: DType) -> np.dtype[Any]:
    """The opaque numpy type that is as wide as one element."""
    import numpy as np

    if dtype.bits < 8:
        raise AssertionError(f"{dtype} elements have no item type")
    width = dtype.bits // 8
    return np.dtype(f"V{width}" if width > 8 else f"u{width}")


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
            return 3 * sum(spec.nbytes for spec in node.call.outputs)
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


def _torch_dtype(dtype: DType) -> torch.dtype:
    import torch

    found = getattr(torch, dtype.torch_name or "", None) if dtype.bits >= 8 else None
    if not isinstance(found, torch.dtype):
        raise MigrationError(
            "CKM543",
            f"torch {torch.__version__} cannot compute with {dtype}",
            why="Only copies and moves of this dtype are possible with it.",
            fix="Use another dtype, or a torch version that has this one.",
        )
    return found


def _to_torch(value: Items, spec: TensorSpec) -> torch.Tensor:
    import numpy as np
    import torch

    if math.prod(spec.shape) == 0:
        return torch.empty(spec.shape, dtype=_torch_dtype(spec.dtype))
    flat = np.array(value, order="C", copy=True).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(_torch_dtype(spec.dtype)).reshape(spec.shape)


def _from_torch(value: torch.Tensor, spec: TensorSpec) -> Items:
    import torch

    if spec.numel == 0:
        import numpy as np

        return np.empty(spec.shape, item_type(spec.dtype))
    plain = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().view(item_type(spec.dtype)).reshape(spec.shape)
