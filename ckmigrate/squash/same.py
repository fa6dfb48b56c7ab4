"""Whether two traces of one schema mean the same: entries, claims, ties and edits of metadata.

Expressions are in normal form, so that equal ones are equal values; but a call of a function is
equal only to itself. Here two calls are the same where their inputs and outputs are, and where the
functions have the same text and see the same values outside of it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ckmigrate.compile import Trace
from ckmigrate.expr import Call, Cast, Concat, Expr, Moments, Random, Reshape, Result, View
from ckmigrate.meta import UNKNOWN, MetaEdit
from ckmigrate.squash.functions import function_node
from ckmigrate.step import Check

__all__ = ["differences"]

_MOST = 8
"""Differences that are told."""


def differences(chain: Trace, squash: Trace) -> tuple[str, ...]:
    """What is not the same at the end of both, in words; () where everything is."""
    told = _Same({**_sources(chain), **_sources(squash)})
    lines = [
        *_entries(chain, squash, told),
        *_claims(chain.checks, squash.checks, told),
        *_ties(chain, squash),
        *_edits(chain, squash),
    ]
    return tuple(lines[:_MOST])


def _entries(chain: Trace, squash: Trace, same: _Same) -> Iterator[str]:
    ours, theirs = chain.end.entries, squash.end.entries
    yield from (f"'{name}' is missing" for name in ours if name not in theirs)
    yield from (f"'{name}' is left over" for name in theirs if name not in ours)
    for name, expr in ours.items():
        if name in theirs and not same(expr, theirs[name]):
            yield f"'{name}' is made in another way"


def _claims(ours: Sequence[Check], theirs: Sequence[Check], same: _Same) -> Iterator[str]:
    left = list(theirs)
    for check in ours:
        found = next((other for other in left if same.claim(check, other)), None)
        if found is None:
            yield f"a claim is lost: {check.claim}"
        else:
            left.remove(found)
    yield from (f"a claim is new: {check.claim}" for check in left)


def _ties(chain: Trace, squash: Trace) -> Iterator[str]:
    ours, theirs = ({frozenset(group) for group in t.end.ties} for t in (chain, squash))
    yield from (f"the tie of {', '.join(sorted(group))} differs" for group in ours ^ theirs)


def _edits(chain: Trace, squash: Trace) -> Iterator[str]:
    if _all_edits(chain) != _all_edits(squash) or chain.end.meta != squash.end.meta:
        yield "metadata are edited in another way"


def _all_edits(trace: Trace) -> list[MetaEdit]:
    records = (record for script in trace.scripts for record in script.records)
    return [replace(record.edit, old=UNKNOWN) for record in records if record.edit is not None]


class _Same:
    """Compares expressions; remembers calls, because several results share one."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._calls: dict[tuple[int, int], bool] = {}

    def __call__(self, left: Expr, right: Expr) -> bool:
        if left is right:
            return True
        if type(left) is not type(right) or left.spec != right.spec:
            return False
        match left, right:
            case View(), View():
                place = (left.offset, left.strides) == (right.offset, right.strides)
                return place and self(left.base, right.base)
            case Reshape(base=ours), Reshape(base=theirs):
                return self(ours, theirs)
            case Cast(base=ours), Cast(base=theirs):
                return self(ours, theirs)
            case Concat(), Concat():
                return left.dim == right.dim and self._each(left.parts, right.parts)
            case Result(), Result():
                return left.index == right.index and self._call(left.call, right.call)
            case Random(kind="eye"), Random(kind="eye"):
                return True  # the identity is drawn from no stream
        return left == right

    def claim(self, left: Check, right: Check) -> bool:
        """Whether two claims compare the same values."""
        same = self(left.left, right.left) and self(left.right, right.right)
        return same and left.claim == right.claim

    def _each(self, left: Sequence[Expr], right: Sequence[Expr]) -> bool:
        return len(left) == len(right) and all(map(self, left, right))

    def _call(self, left: Call, right: Call) -> bool:
        key = (id(left), id(right))
        if key not in self._calls:
            self._calls[key] = (
                (left.label, left.key, left.outputs) == (right.label, right.key, right.outputs)
                and self._function(left.function, right.function)
                and self._moments(left.moments, right.moments)
                and self._each(left.inputs, right.inputs)
            )
        return self._calls[key]

    def _moments(self, left: Moments, right: Moments) -> bool:
        if callable(left) and callable(right):
            return self._function(left, right)
        return left == right

    def _function(self, left: Callable[..., object], right: Callable[..., object]) -> bool:
        if left is right:
            return True
        if isinstance(left, functools.partial) and isinstance(right, functools.partial):
            given = (left.args, left.keywords) == (right.args, right.keywords)
            return given and self._function(left.func, right.func)
        if not (isinstance(left, types.FunctionType) and isinstance(right, types.FunctionType)):
            return False
        text, other = self._text(left), self._text(right)
        if text is None or text != other or left.__defaults__ != right.__defaults__:
            return False
        return self._values(_seen(left), _seen(right), (left, right))

    def _text(self, function: types.FunctionType) -> str | None:
        source = self._sources.get(function.__code__.co_filename)
        node = None if source is None else function_node(function, source)
        return None if node is None else ast.dump(node)

    def _values(
        self, ours: Mapping[str, object], theirs: Mapping[str, object], pair: tuple[object, object]
    ) -> bool:
        """Whether the values that two functions see are the same; `pair` are the functions, which
        may call themselves."""
        if ours.keys() != theirs.keys():
            return False
        for name, value in ours.items():
            other = theirs[name]
            if value is pair[0] and other is pair[1]:
                continue
            if callable(value) and callable(other):
                if not self._function(value, other):
                    return False
            elif value is not other and (type(value) is not type(other) or value != other):
                return False
        return True


def _sources(trace: Trace) -> dict[str, str]:
    return {str(done.script.path): done.script.source for done in trace.scripts}


def _seen(function: types.FunctionType) -> dict[str, object]:
    """The values from outside that a function uses, by name."""
    found = inspect.getclosurevars(function)
    return {**found.globals, **found.nonlocals}
