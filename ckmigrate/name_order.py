"""The order of names in a model, as text that can be folded and read.

Models list their entries module by module, so the order is told by the children of each module:

    {".": "embed blocks head", "blocks.{0..11}": "norm attn mlp"}

"." is the root. Modules whose children are in natural order are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ckmigrate.fold import expand, fold
from ckmigrate.names.order import natural_key

__all__ = ["order_lines", "ordered"]

_ROOT = "."


def order_lines(names: Sequence[str]) -> dict[str, str] | None:
    """Folded module → its children in order; None where the names are not module by module."""
    found = {
        path: " ".join(children)
        for path, children in _children(names).items()
        if children != sorted(children, key=natural_key)
    }
    if any(len(part) != 1 for name in names for part in map(str.split, name.split("."))):
        return None
    lines = {line.pattern: line.value for line in fold(found, ascii=True)}
    return lines if ordered(names, lines) == tuple(names) else None


def ordered(names: Iterable[str], lines: Mapping[str, str]) -> tuple[str, ...]:
    """The names in the order that the lines tell; ValueError where these are not about them."""
    known = _children(sorted(names, key=natural_key))
    place = {path: {part: n for n, part in enumerate(parts)} for path, parts in known.items()}
    for pattern, text in lines.items():
        for path in expand(pattern, limit=len(known)):
            listed = text.split(" ")
            if path not in known or sorted(listed) != sorted(known[path]):
                raise ValueError(f"{pattern[:200]!r} is not about the children of {path[:200]!r}")
            place[path] = {part: number for number, part in enumerate(listed)}

    def key(name: str) -> tuple[int, ...]:
        parts = name.split(".")
        return tuple(place[_path(parts[:n])][part] for n, part in enumerate(parts))

    return tuple(sorted(names, key=key))


def _children(names: Iterable[str]) -> dict[str, list[str]]:
    """What stands below each module, in the order of the names."""
    found: dict[str, dict[str, None]] = {}
    for name in names:
        parts = name.split(".")
        for number, part in enumerate(parts):
            found.setdefault(_path(parts[:number]), {})[part] = None
    return {path: list(children) for path, children in found.items()}


def _path(parts: Sequence[str]) -> str:
    return ".".join(parts) or _ROOT
