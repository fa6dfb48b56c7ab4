"""From the text of a pattern to a compiled one."""

from __future__ import annotations

import re
from functools import lru_cache

from ckmigrate.errors import MigrationError
from ckmigrate.names.errors import bad_pattern, unfit
from ckmigrate.names.parts import TOKEN, Part, flatten, read_segments
from ckmigrate.names.pattern import Pattern, PatternLike

__all__ = ["compile_pattern", "expand"]

_MOST_WILDCARDS = 64  # bounds the depth of the search


def compile_pattern(text: PatternLike) -> Pattern:
    """Read a pattern; a compiled one is returned as it is. MigrationError CKM501 if malformed."""
    if isinstance(text, Pattern):
        return text
    if isinstance(text, str):
        return _compile_text(text)
    if isinstance(text, re.Pattern) and isinstance(text.pattern, str):
        groups_in_order = tuple(text.groupindex)
        return Pattern(
            text.pattern, groups_in_order, (), False, groups_in_order, (), None, 0, (), text
        )
    raise MigrationError(
        "CKM501",
        f"{text!r} is not a name pattern",
        why="a pattern is text or a compiled re.Pattern of text",
        fix="Write the pattern as a string, such as 'blocks.{i}.weight'.",
    )


def expand(pattern: str) -> tuple[str, ...]:
    """Write out the one group of alternatives: `a.{q,k}.w` is `a.q.w`, `a.k.w`; else itself.

    MigrationError CKM501 for a malformed pattern or a second group.
    """
    if not isinstance(pattern, str):
        raise unfit(compile_pattern(pattern).text, "only a pattern in text lists alternatives")
    compiled = compile_pattern(pattern)
    if len(compiled.alternatives) > 1:
        raise bad_pattern(pattern, 0, "only one group of alternatives can be written out here")
    if not compiled.alternatives:
        return (pattern,)
    group = next(found for found in TOKEN.finditer(pattern) if "," in (found["body"] or ""))
    before, after = pattern[: group.start()], pattern[group.end() :]
    return tuple(f"{before}{option}{after}" for option in compiled.alternatives[0])


@lru_cache(maxsize=4096)
def _compile_text(text: str) -> Pattern:
    segments = read_segments(text)
    parts = flatten(segments)
    keyed = [part for part in parts if part.key]
    if len(keyed) > _MOST_WILDCARDS:
        raise bad_pattern(text, 0, f"it has more than {_MOST_WILDCARDS} wildcards")
    keys = tuple(dict.fromkeys(part.key for part in keyed))
    free = [sum(part.kind != "text" for part in segment) for segment in segments]
    deep = sum(part.kind == "deep" for part in parts)
    ambiguity = sum(max(0, count - 1) for count in (*free, deep))
    return Pattern(
        text=text,
        captures=tuple(key for key in keys if key[0] not in "*{"),
        alternatives=tuple(part.options for part in keyed if part.kind == "choice"),
        is_literal=not keyed,
        keys=keys,
        parts=parts,
        fast=_fast_regex(parts, lazy=ambiguity > 0) if ambiguity < 2 else None,
        ambiguity=ambiguity,
        surplus=_surplus(keys),
    )


def _surplus(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Keys that no source may have: one more of each unnamed sort that a target uses."""
    stars = sum(key.startswith("*") for key in keys)
    choices = sum(key.startswith("{") for key in keys)
    return (f"*{stars}",) * bool(stars) + (f"{{{choices}}}",) * bool(choices)


def _fast_regex(parts: tuple[Part, ...], *, lazy: bool) -> re.Pattern[str] | None:
    """A flat expression with at most one free choice: its time is at most quadratic.

    The group of a `deep` part holds its dot. Lazy quantifiers try in the same order as the search.
    None where a repeated capture cannot be a back reference, or where the pattern is a target only.
    """
    mark = "?" if lazy else ""
    written: dict[str, Part] = {}
    pieces: list[str] = []
    for part in parts:
        if part.shift is not None or (part.key in written and written[part.key] != part):
            return None
        if part.key in written:
            if part.kind == "deep":
                return None
            pieces.append(rf"(?:\{list(written).index(part.key) + 1})")
            continue
        pieces.append(
            {
                "text": re.escape(part.text),
                "one": f"([^.]+{mark})",
                "int": f"(0|[1-9][0-9]{{0,17}}{mark})",
                "deep": rf"((?:\..+{mark})?{mark})",
                "choice": f"({'|'.join(map(re.escape, part.options))})",
            }[part.kind]
        )
        if part.key:
            written[part.key] = part
    return re.compile("".join(pieces), re.DOTALL)
