"""Every name that a pattern matches, in the order in which people count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ckmigrate.names.compiling import compile_pattern
from ckmigrate.names.order import in_order
from ckmigrate.names.pattern import Captures, PatternLike, collection, scan

__all__ = ["Match", "select"]


class Match(NamedTuple):
    """One existing name and what the pattern captured from it."""

    name: str
    captures: Captures


def select(pattern: PatternLike, names: Iterable[str]) -> tuple[Match, ...]:
    """Every name that matches, ordered by the captures from left to right.

    Numbers inside captures sort as numbers, alternatives in the order of the pattern.
    """
    found = [Match(*entry) for entry in scan(compile_pattern(pattern), collection(names))]
    found.sort(key=lambda match: in_order(match.captures.values()))
    return tuple(found)
