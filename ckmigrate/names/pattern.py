"""A compiled pattern, and matching it against names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ckmigrate.names.errors import bad_pattern, too_slow
from ckmigrate.names.parts import Part
from ckmigrate.names.search import search_reader

__all__ = ["Captures", "Pattern", "PatternLike", "collection", "scan"]

Captures: TypeAlias = Mapping[str, str]

_LONGEST_NAME = 2_000  # where a name can be read in several ways, the work grows with its square


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled name pattern.

    captures      the named captures, in order of appearance
    keys          every key of what `match` returns, in order: also "*0" and "{0}"
    alternatives  the groups of alternatives, in order
    is_literal    the pattern is one plain name
    """

    text: str
    captures: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...]
    is_literal: bool
    keys: tuple[str, ...]
    parts: tuple[Part, ...] = field(compare=False, repr=False)
    fast: re.Pattern[str] | None = field(compare=False, repr=False)
    ambiguity: int = field(compare=False, repr=False)
    surplus: tuple[str, ...] = field(compare=False, repr=False)
    regex: re.Pattern[str] | None = None

    def match(self, name: str) -> Captures | None:
        """The captures of `name`, or None. A `re.Pattern` costs a process: prefer `select`."""
        return next((captures for _, captures in scan(self, (name,))), None)

    @property
    def ends(self) -> tuple[str, str]:
        """What every name that matches begins and ends with; of a pattern in text."""
        return self.parts[0].text[1:], self.parts[-1].text.removeprefix(".")

    def __str__(self) -> str:
        return self.text


PatternLike: TypeAlias = str | re.Pattern[str] | Pattern


def collection(names: Iterable[str]) -> Collection[str]:
    return names if isinstance(names, Collection) else tuple(names)


def scan(pattern: Pattern, names: Collection[str]) -> Iterator[tuple[str, Captures]]:
    """Matching names in their own order, with their captures in the order of the pattern."""
    if pattern.regex is not None:
        yield from _scan_regex(pattern.regex, names) if names else ()
    elif pattern.is_literal:
        yield from ((name, MappingProxyType({})) for name in (pattern.text,) if name in names)
    else:
        read = _reader(pattern)
        first, last = pattern.ends
        for name in [name for name in names if name.startswith(first) and name.endswith(last)]:
            captures = read(name)
            if captures is not None:
                yield name, MappingProxyType(captures)


def _scan_regex(regex: re.Pattern[str], names: Collection[str]) -> Iterator[tuple[str, Captures]]:
    # Most runs need neither a process nor what it takes to start one.
    from ckmigrate.names.child import (
        scan_regex,
    )

    return ((name, MappingProxyType(found)) for name, found in scan_regex(regex, list(names)))


def _reader(pattern: Pattern) -> Callable[[str], dict[str, str] | None]:
    """The function that reads one name; MigrationError CKM501 for a pattern with a shift."""
    if any(part.shift is not None for part in pattern.parts):
        raise bad_pattern(pattern.text, 0, "a shift such as {i+1} belongs to the target side")
    bounded = pattern.ambiguity == 0 and pattern.fast is not None
    run = (
        search_reader(pattern.text, pattern.parts)
        if pattern.fast is None
        else _fast_reader(pattern, pattern.fast)
    )

    def read(name: str) -> dict[str, str] | None:
        if not bounded and len(name) > _LONGEST_NAME:
            raise too_slow(pattern.text, name, f"the name has {len(name)} characters")
        return run(name)

    return run if bounded else read


def _fast_reader(pattern: Pattern, fast: re.Pattern[str]) -> Callable[[str], dict[str, str] | None]:
    keys, fullmatch = pattern.keys, fast.fullmatch
    choices = [(part.key, part.options) for part in pattern.parts if part.kind == "choice"]
    deep = [part.key for part in pattern.parts if part.kind == "deep"]

    def read(name: str) -> dict[str, str] | None:
        found = fullmatch("." + name)
        if found is None:
            return None
        captures = dict(zip(keys, found.groups(), strict=True))
        for key, options in choices:
            captures[key] = str(options.index(captures[key]))
        for key in deep:
            captures[key] = captures[key][1:]
        return captures

    return read
