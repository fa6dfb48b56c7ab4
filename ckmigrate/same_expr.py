"""Whether two expressions of two traces mean the same values.

`==` on expressions is exact but for calls: a traced call is equal only to itself, because nobody
can tell what a function does. Of two traces of one script, though, a function was made twice from
one text; such twins do the same where they closed over the same values.
"""

from __future__ import annotations

import functools
import types
from dataclasses import fields, is_dataclass

from ckmigrate.expr import Call

__all__ = ["is_twin", "same_expr"]


def same_expr(one: object, other: object) -> bool:
    """Whether both are one expression, or differ in calls of twins only."""
    if one == other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same_expr, one, other))
    if isinstance(one, Call) and isinstance(other, Call):
        described = (one.outputs, one.label, one.key) == (other.outputs, other.label, other.key)
        return (
            described
            and is_twin(one.function, other.function)
            and is_twin(one.moments, other.moments)
            and same_expr(one.inputs, other.inputs)
        )
    parts = [(getattr(one, name), getattr(other, name)) for name in _fields(type(one))]
    return bool(parts) and all(same_expr(left, right) for left, right in parts)


def is_twin(one: object, other: object) -> bool:
    """Whether two functions come from one text and hold equal values; False where in doubt."""
    if one is other:
        return True
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        given = (one.args, one.keywords), (other.args, other.keywords)
        return is_twin(one.func, other.func) and _equal(*given)
    if not (isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType)):
        return _equal(one, other)
    defaults = [(each.__defaults__, each.__kwdefaults__) for each in (one, other)]
    return (
        one.__code__ == other.__code__
        and _equal(*defaults)
        and all(map(is_twin, _closed_over(one), _closed_over(other)))
    )


def _fields(kind: type) -> tuple[str, ...]:
    """Of an expression; nothing else is looked into."""
    is_expr = kind.__module__ == Call.__module__ and is_dataclass(kind)
    return tuple(field.name for field in fields(kind)) if is_expr else ()


def _closed_over(function: types.FunctionType) -> list[object]:
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _equal(one: object, other: object) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001 - a stranger's `==`, such as that of an array
        return False
