"""Assignments that differ in numbers only, as loops.

    new["b.0.w"] = old["a.0.w"]            for i in range(2):
    new["b.1.w"] = old["a.1.w"]    ──▶         new[f"b.{i}.w"] = old[f"a.{i}.w"]

A number inside a text is taken for an index where the assigned name has the same number; lines are
joined only where putting the numbers back gives each of them exactly.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PART", "Line", "comprehension", "literal", "looped"]

PART = "\1"
"""Inside a text: the number of a part, which becomes the variable of a comprehension."""

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"(?<![0-9A-Za-z_])(?:0|[1-9][0-9]*)(?![0-9A-Za-z_/])")
_MARK = "\0{}\0"
_MARKED = re.compile("\0([0-9]+)\0")
_LETTERS = "ijklmn"

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """`new[name] = code`."""

    name: str
    code: str


def looped(lines: Sequence[Line]) -> list[str]:
    """Statements that do what the lines do; each name is assigned once, so their order is free."""
    groups: dict[tuple[str, int], list[Index]] = {}
    for line in lines:
        template, index = _template(line)
        groups.setdefault((template, len(index)), []).append(index)
    bodies: dict[tuple[str, ...], list[str]] = {}
    for (template, _), found in groups.items():
        heads, body = _statement(template, found)
        bodies.setdefault(heads, []).append(body)
    return [text for heads, body in bodies.items() for text in _nested(heads, body)]


def _nested(heads: Sequence[str], bodies: Sequence[str]) -> list[str]:
    margin = "    " * len(heads)
    lines = [f"{'    ' * depth}{head}" for depth, head in enumerate(heads)]
    return lines + [f"{margin}{body}" for body in bodies]


def comprehension(parts: Sequence[str]) -> str | None:
    """One text for parts that differ in their own number only; None where they do not."""
    numbers = [[n for text in _TEXT.findall(part) for n in _NUMBER.findall(text)] for part in parts]
    if len(parts) < 3 or any(PART in part for part in parts) or len(set(map(len, numbers))) != 1:
        return None
    columns = list(zip(*numbers, strict=True))
    own = [column == tuple(map(str, range(len(parts)))) for column in columns]
    texts = {_with_part(part, own) for part in parts}
    return f"{texts.pop()} for p in range({len(parts)})" if any(own) and len(texts) == 1 else None


def _with_part(part: str, own: Sequence[bool]) -> str:
    is_own = iter(own)

    def marked(text: re.Match[str]) -> str:
        return _NUMBER.sub(lambda number: PART if next(is_own) else number[0], text[0])

    return _TEXT.sub(marked, part)


def _template(line: Line) -> tuple[str, Index]:
    index = tuple(int(number) for number in _NUMBER.findall(line.name))
    if len(index) > len(_LETTERS):
        return f"new[{json.dumps(line.name)}] = {line.code}", ()
    counter = iter(range(len(index)))
    target = _NUMBER.sub(lambda _: _MARK.format(next(counter)), json.dumps(line.name))

    def marked(text: re.Match[str]) -> str:
        # The first of a number is the first index that has it, and so on; further ones are others.
        left = [(str(number), place) for place, number in enumerate(index)]

        def mark(number: re.Match[str]) -> str:
            found = next((pair for pair in left if pair[0] == number[0]), None)
            if found is None:
                return number[0]
            left.remove(found)
            return _MARK.format(found[1])

        return _NUMBER.sub(mark, text[0])

    return f"new[{target}] = {_TEXT.sub(marked, line.code)}", index


def _statement(template: str, found: Sequence[Index]) -> tuple[tuple[str, ...], str]:
    """The heads of loops, the outer one first, and what they repeat."""
    sides = [sorted(set(side)) for side in zip(*found, strict=True)]
    varying = [place for place, side in enumerate(sides) if len(side) > 1]
    letters = {place: _LETTERS[order] for order, place in enumerate(varying)}
    body = _TEXT.sub(lambda text: _filled(text[0], letters, sides), template)
    if math.prod(map(len, sides)) == len(found):
        return tuple(f"for {letters[p]} in {_range(sides[p])}:" for p in varying), body
    names = ", ".join(letters[place] for place in varying)
    rows = [tuple(index[place] for place in varying) for index in found]
    if len(varying) == 1:
        return (f"for {names} in {[row[0] for row in rows]!r}:",), body
    return (f"for {names} in {rows!r}:",), body


def _filled(text: str, letters: dict[int, str], sides: Sequence[Sequence[int]]) -> str:
    """A text with constant numbers put back, and variables for the others."""
    text = _MARKED.sub(
        lambda mark: mark[0] if int(mark[1]) in letters else str(sides[int(mark[1])][0]), text
    )
    if not _MARKED.search(text) and PART not in text:
        return text
    braced = text.replace("{", "{{").replace("}", "}}").replace(PART, "{p}")
    return "f" + _MARKED.sub(lambda mark: "{" + letters[int(mark[1])] + "}", braced)


def literal(code: str) -> str:
    """The code of an expression that stands in no loop."""
    return _TEXT.sub(lambda text: _filled(text[0], {}, ()), code)


def _range(numbers: Sequence[int]) -> str:
    if list(numbers) == list(range(len(numbers))):
        return f"range({len(numbers)})"
    return repr(tuple(numbers))
