"""Subtrees that are built alike and keep no name: `transformer.blocks` and `encoder.layers`.

Two modules are alike where they hold as many entries of the same last word, shapes and indices. It
is a guess, made only where no third module is built like them, and it lets the names within be
compared: what is renamed inside as well is found after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.carry import carried
from ckmigrate.autogenerate.families import families
from ckmigrate.spec import TensorSpec

__all__ = ["propose_alike"]

_LEAST = 4
"""Families: fewer say little."""

_Path = tuple[str, ...]
_Build = frozenset[tuple[object, int]]


def propose_alike(board: Board) -> bool:
    """Propose the largest pair of subtrees that only each other can be; False where none is."""
    old, new = _builds(board.vanished), _builds(board.appeared)
    for build in sorted(old.keys() & new.keys(), key=len, reverse=True):
        one, other = _only(old[build]), _only(new[build])
        if one is None or other is None or one.count("#") != other.count("#"):
            continue
        pairs = carried(board, one, other, {})
        why = "in modules that are built alike, as no others are"
        if pairs and board.rename(pairs, "guess", why):
            return True
    return False


def _builds(specs: Mapping[str, TensorSpec]) -> dict[_Build, list[_Path]]:
    """Modules by what they are built of, those of several families."""
    parts: dict[_Path, Counter[object]] = {}
    for family in families(specs):
        what = family.leaf, frozenset(family.specs.items())
        for depth in range(1, len(family.path)):
            if family.path[depth - 1] != "#":
                parts.setdefault(family.path[:depth], Counter())[what] += 1
    found: dict[_Build, list[_Path]] = {}
    for path, counts in parts.items():
        if counts.total() >= _LEAST:
            found.setdefault(frozenset(counts.items()), []).append(path)
    return found


def _only(paths: list[_Path]) -> _Path | None:
    """The innermost, where all stand around each other; None where two stand apart."""
    inner = max(paths, key=len)
    return inner if all(inner[: len(path)] == path for path in paths) else None
