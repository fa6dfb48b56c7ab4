"""Many names on one line, without loss: `layers.{0…31}.attn.qkv.weight`.

A folded line stands for every combination of the numbers in its braces. Braces are always a whole
segment and hold ascending numbers and ranges: `{0…31}`, `{0,2,5}`, `{0…3,8}`; `{0..31}` is the same
in ASCII. Only segments that are nothing but a number without leading zeros are folded. A name that
itself contains one of `{ } … ,` or begins with a double quote is never folded; its line is that
name as a JSON string.

`fold` and `expand` are inverse: the lines of a schema expand to exactly its names, each once.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ckmigrate.errors import MigrationError

__all__ = ["Folded", "expand", "fold", "fold_names", "skeleton"]

T = TypeVar("T", bound=Hashable)

# A huge number in a hand-edited snapshot must not fill the memory.
_MOST_NAMES = 10_000_000
# Eighteen digits: int() refuses thousands of them, and no index comes near.
_NUMBER = r"(?:0|[1-9][0-9]{0,17})"
_NUMBER_SEGMENT = re.compile(rf"(?<![^.])({_NUMBER})(?![^.])")
_DIGITS_SEGMENT = re.compile(r"(?<![^.])[0-9]+(?![^.])")
_BRACES_SEGMENT = re.compile(r"(?<![^.])\{([^{}]*)\}(?![^.])")
_ITEM = re.compile(rf"({_NUMBER})(?:(?:…|\.\.)({_NUMBER}))?")
_SPECIAL = re.compile(r'[{}…,]|^"')

_Index = tuple[int, ...]
_Box = tuple[_Index, ...]


@dataclass(frozen=True, slots=True)
class Folded(Generic[T]):
    """One folded line: `names` share `value`, and `expand(pattern) == names`."""

    pattern: str
    value: T
    names: tuple[str, ...]


def skeleton(name: str) -> str:
    """The name with every digits-only segment replaced by `#`: `layers.#.attn.weight`."""
    return _DIGITS_SEGMENT.sub("#", name)


def fold(schema: Mapping[str, T], *, ascii: bool = False) -> tuple[Folded[T], ...]:  # noqa: A002
    """Fold names that differ only in numbers and have equal values.

    Lines come in the order of their first name in `schema`; the names of one line come in the
    order of their numbers. Numbers in several positions share a line when every combination is
    there; otherwise the first position is split. `ascii` writes `..` for `…`.
    """
    lines: list[Folded[T]] = []
    groups: dict[tuple[tuple[str, ...], T], list[_Index]] = {}
    for name, value in schema.items():
        if _SPECIAL.search(name):
            lines.append(Folded(json.dumps(name), value, (name,)))
            continue
        parts = _NUMBER_SEGMENT.split(name)
        index = tuple(map(int, parts[1::2]))
        groups.setdefault((tuple(parts[::2]), value), []).append(index)
    for (texts, value), indices in groups.items():
        for box in _boxes(indices):
            pattern = _fill(texts, [_braces(numbers, ascii=ascii) for numbers in box])
            lines.append(Folded(pattern, value, _names(texts, box)))
    position = {name: order for order, name in enumerate(schema)}
    return tuple(sorted(lines, key=lambda line: min(position[name] for name in line.names)))


def fold_names(names: Iterable[str], *, ascii: bool = False) -> tuple[str, ...]:  # noqa: A002
    """The folded lines of names alone, as text."""
    return tuple(line.pattern for line in fold(dict.fromkeys(names), ascii=ascii))


def expand(pattern: str, *, limit: int = _MOST_NAMES) -> tuple[str, ...]:
    """Every name that a folded line stands for, in the order of its numbers.

    Raises MigrationError CKM509 for text that `fold` cannot have written, or more than `limit`
    names.
    """
    if pattern.startswith('"'):
        return (_unquote(pattern),)
    parts = _BRACES_SEGMENT.split(pattern)
    texts = tuple(parts[::2])
    if _SPECIAL.search("".join(texts)):
        raise _bad_line(pattern, "a brace, comma or … stands outside a segment of its own")
    ranges = [_ranges(body, pattern) for body in parts[1::2]]
    count = math.prod(sum(len(run) for run in runs) for runs in ranges)
    if count > limit:
        raise _bad_line(pattern, f"it stands for {count} names; the limit is {limit}")
    return _names(texts, tuple(tuple(itertools.chain(*runs)) for runs in ranges))


def _boxes(indices: Sequence[_Index]) -> Iterator[_Box]:
    """Cover distinct index tuples of equal length exactly, with products of ascending numbers."""
    sides = [tuple(sorted(set(side))) for side in zip(*indices, strict=True)]
    if math.prod(map(len, sides)) == len(indices):
        yield tuple(sides)
        return
    tails: dict[int, list[_Index]] = {}
    for first, *rest in indices:
        tails.setdefault(first, []).append(tuple(rest))
    firsts: dict[frozenset[_Index], list[int]] = {}
    for first, tail in tails.items():
        firsts.setdefault(frozenset(tail), []).append(first)
    for shared, numbers in firsts.items():
        for box in _boxes(sorted(shared)):
            yield (tuple(sorted(numbers)), *box)


def _names(texts: tuple[str, ...], box: _Box) -> tuple[str, ...]:
    sides = [[str(number) for number in side] for side in box]
    return tuple(_fill(texts, numbers) for numbers in itertools.product(*sides))


def _fill(texts: tuple[str, ...], numbers: Sequence[str]) -> str:
    return "".join(itertools.chain(*zip(texts, (*numbers, ""), strict=True)))


def _braces(numbers: _Index, *, ascii: bool) -> str:  # noqa: A002
    """`7` for one number; otherwise braces in which three or more neighbours are a range."""
    if len(numbers) == 1:
        return str(numbers[0])
    dots = ".." if ascii else "…"
    items: list[str] = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        near = [str(number) for _, number in run]
        items += near if len(near) < 3 else [f"{near[0]}{dots}{near[-1]}"]
    return "{" + ",".join(items) + "}"


def _ranges(body: str, pattern: str) -> list[range]:
    """The runs of one pair of braces; ascending, so no name can be written twice."""
    runs: list[range] = []
    for item in body.split(","):
        found = _ITEM.fullmatch(item)
        if found is None:
            raise _bad_line(pattern, f"{item!r} is neither a number nor a range of numbers")
        start, stop = int(found[1]), int(found[2] or found[1])
        if stop < start or (runs and start < runs[-1].stop):
            raise _bad_line(pattern, f"the numbers of {{{body}}} do not ascend")
        runs.append(range(start, stop + 1))
    return runs


def _unquote(pattern: str) -> str:
    try:
        name = json.loads(pattern)
    except ValueError:
        raise _bad_line(pattern, "it begins with a quote and is not a JSON string") from None
    return str(name)


def _bad_line(pattern: str, why: str) -> MigrationError:
    return MigrationError(
        "CKM509",
        f"{pattern!r} is not a folded name",
        why=why,
        fix="Write numbers as 'layers.{0…31}.weight' (or {0..31}, {0,2,5}), each pair of braces a "
        "whole segment, and any name with one of { } … , as a JSON string.",
    )
