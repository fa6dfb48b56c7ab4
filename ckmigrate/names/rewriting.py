"""Renames that write every capture as it was read: no captures are built, the text is moved.

`h.{i}.attn.{p}` to `layers.{i}.{p}` is one expression and one format string; `old.**` to `new.**`
is an exchange of prefixes. Shifts, other alternatives and whatever could be an error of one name
are left to `filling`, which tells what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckmigrate.names.parts import Part
from ckmigrate.names.pattern import Pattern

__all__ = ["rewrite"]


def rewrite(source: Pattern, target: Pattern, names: Iterable[str]) -> dict[str, str] | None:
    """New names by existing ones, in the order of `names`; None where the captures have to be
    looked at."""
    if source.fast is None or source.ambiguity or source.is_literal:
        return None
    form = _form(source, target)
    if form is None:
        return None
    before, after = _prefix(source), _prefix(target)
    if before is not None and after is not None:
        return _exchanged(before, after, names)
    moved = _formatted(source, source.fast, form, names)
    can_be_empty = all(part.kind == "deep" for part in target.parts)
    return None if can_be_empty and not all(moved.values()) else moved


def _form(source: Pattern, target: Pattern) -> str | None:
    """The target as a format string over the groups of the source's expression."""
    captured = {part.key: part for part in reversed(source.parts) if part.key}
    pieces: list[str] = []
    for part in target.parts:
        before = _passed(captured[part.key], part) if part.key else part.text
        if before is None:
            return None
        pieces.append(f"{before}{{{source.keys.index(part.key)}}}" if part.key else before)
    return "".join(pieces)


def _passed(mine: Part, other: Part) -> str | None:
    """What stands before a capture that is written as it was read; None where it is not."""
    match mine.kind, other.kind:
        case ("one" | "int", "one") | ("deep", "deep"):
            return ""
        case ("one" | "int", "deep"):
            return "."
        case ("int", "int") if other.shift is None:
            return ""
        case ("choice", "choice") if mine.options == other.options:
            return ""
    return None


def _prefix(pattern: Pattern) -> str | None:
    """`a.b` of the pattern `a.b.**`; None for any other."""
    kinds = [part.kind for part in pattern.parts]
    return pattern.parts[0].text[1:] if kinds == ["text", "deep"] else None


def _exchanged(before: str, after: str, names: Iterable[str]) -> dict[str, str]:
    dotted, rest = before + ".", len(before)
    # "a" and "a.b" fit `a.**`; "a." does not, since one empty segment could not be told from none.
    moved = [
        name for name in names if (name.startswith(dotted) and name != dotted) or name == before
    ]
    return {name: after + name[rest:] for name in moved}


def _formatted(
    source: Pattern, fast: re.Pattern[str], form: str, names: Iterable[str]
) -> dict[str, str]:
    first, last = source.ends
    fullmatch, fill = fast.fullmatch, form.format
    return {
        name: fill(*found.groups())[1:]
        for name in names
        if name.startswith(first) and name.endswith(last) and (found := fullmatch("." + name))
    }
