"""A call as text, for the plan and the digest of a migration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["call_text"]

_PLAIN = frozenset({str, bool, int, float, list, tuple, dict})


def call_text(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Arguments as a script would write them; defaults left out, functions as a word."""
    words = [_text(value) for value in args]
    words += [
        f"{key}={_text(value)}"
        for key, value in kwargs.items()
        if value is not None and value is not False
    ]
    return ", ".join(words)


def _text(value: object) -> str:
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r})"
    if type(value) in _PLAIN:
        return repr(value)
    from ckmigrate.init import Initialiser

    if isinstance(value, Initialiser):
        return f"init.{value}"
    if callable(value):
        name = getattr(value, "__name__", "function")
        return "function" if name == "<lambda>" else name
    return repr(value)
