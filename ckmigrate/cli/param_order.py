"""The file of --param-order: names of the parameters of optimizers, over all of their groups."""

from __future__ import annotations

import json
from pathlib import Path

from ckmigrate.errors import UsageError

__all__ = ["read_param_order"]


def read_param_order(path: Path) -> tuple[str, ...]:
    """The names in a file, one on each line or as a JSON list. UsageError CKM259 where it is
    neither, or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _no_order(path, str(error)) from None
    names = _listed(path, text) if text.startswith("[") else text.split("\n")
    found = tuple(name.strip() for name in names if name.strip())
    if not found:
        raise _no_order(path, "it has no names")
    return found


def _listed(path: Path, text: str) -> list[str]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_order(path, f"it is no JSON: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise _no_order(path, "it is no list of names")
    return listed


def _no_order(path: Path, why: str) -> UsageError:
    return UsageError(
        "CKM259",
        "the order of parameters cannot be read",
        where=str(path),
        why=why,
        fix="Write the names of the optimizer's parameters, over all of its groups, one on each "
        "line, or as a JSON list.",
    )
