"""Names that belong together: the members of a group, and the indices of a stack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ckmigrate.names.compiling import compile_pattern
from ckmigrate.names.errors import collision, described, hole, listed, unfit
from ckmigrate.names.filling import substitute
from ckmigrate.names.likeness import nothing_matches
from ckmigrate.names.matching import select
from ckmigrate.names.order import in_order
from ckmigrate.names.parts import INTEGER
from ckmigrate.names.pattern import Captures, Pattern, PatternLike, collection, scan
from ckmigrate.names.renaming import check_sides

__all__ = ["Group", "StackGroup", "groups", "stack_groups"]


@dataclass(frozen=True, slots=True)
class Group:
    """Names that belong together, one per member pattern and in the order of the members."""

    captures: Captures
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StackGroup:
    """Names that become one, with their indices 0 … n-1 in ascending order."""

    target_name: str
    members: tuple[tuple[int, str], ...]


def groups(
    members: Sequence[PatternLike], names: Iterable[str], *, optional: bool = False
) -> tuple[Group, ...]:
    """Join the matches of every member pattern by equal captures, in the order of the captures.

    CKM504: the members capture different things. CKM505: nothing matches, unless `optional`.
    CKM506: two names for one member of a group. CKM507: a group lacks a member.
    """
    patterns = [compile_pattern(member) for member in members]
    keys = patterns[0].keys if patterns else ()
    for pattern in patterns:
        if set(pattern.keys) != set(keys):
            ours, theirs = (", ".join(map(described, some)) for some in (pattern.keys, keys))
            why = f"it captures {ours or 'nothing'}, {patterns[0].text!r} captures {theirs}"
            raise unfit(pattern.text, why)
    known = collection(names)
    joined: dict[tuple[str, ...], dict[int, str]] = {}
    for place, pattern in enumerate(patterns):
        for name, found in scan(pattern, known):
            group = joined.setdefault(tuple(found[key] for key in keys), {})
            if group.setdefault(place, name) != name:
                raise collision([f"{group[place]!r} and {name!r} are one member of one group"])
    if not joined and not optional:
        raise nothing_matches(patterns[0].text if patterns else "", known)
    _check_complete(patterns, keys, joined)
    return tuple(
        Group(
            MappingProxyType(dict(zip(keys, values, strict=True))),
            tuple(joined[values][place] for place in range(len(patterns))),
        )
        for values in sorted(joined, key=in_order)
    )


def _check_complete(
    patterns: list[Pattern],
    keys: tuple[str, ...],
    joined: Mapping[tuple[str, ...], Mapping[int, str]],
) -> None:
    problems: list[str] = []
    for values in sorted(joined, key=in_order):
        present = joined[values]
        if len(present) == len(patterns):
            continue
        captures = dict(zip(keys, values, strict=True))
        missing = [
            pattern.text if pattern.regex else substitute(pattern, captures)
            for place, pattern in enumerate(patterns)
            if place not in present
        ]
        label = ", ".join(f"{key}={value}" for key, value in captures.items())
        there = ", ".join(present[place] for place in sorted(present))
        problems.append(
            f"the group{label and ' '}{label} has {there} but lacks {', '.join(missing)}"
        )
    if problems:
        raise listed(
            "CKM507",
            problems,
            why="every member pattern needs one entry for each combination of captures",
            fix="Narrow the patterns to complete groups, or create the missing entries before.",
        )


def stack_groups(
    sources: PatternLike, target: PatternLike, names: Iterable[str], *, optional: bool = False
) -> tuple[StackGroup, ...]:
    """Group the names that become one: `experts.{e}.w` to `w`, ordered by e.

    The one capture that the target lacks is the index; alternatives count by position.
    CKM504: not exactly one such capture. CKM505: nothing matches, unless `optional`.
    CKM508: the indices of a group are not 0 … n-1.
    """
    source, stacked = compile_pattern(sources), compile_pattern(target)
    check_sides(source, stacked)
    extra = [key for key in source.keys if key not in stacked.keys]
    if len(extra) != 1:
        raise unfit(
            stacked.text, f"it must leave out exactly one capture of {source.text!r}: the index"
        )
    known = collection(names)
    found = select(source, known)
    if not found and not optional:
        raise nothing_matches(source.text, known)
    members: dict[str, list[tuple[str, str]]] = {}
    for entry in found:
        name = substitute(stacked, entry.captures)
        members.setdefault(name, []).append((entry.captures[extra[0]], entry.name))
    return tuple(_stack_group(name, entries, extra[0]) for name, entries in members.items())


def _stack_group(target_name: str, entries: list[tuple[str, str]], key: str) -> StackGroup:
    numbered: dict[int, str] = {}
    for text, name in entries:
        if not INTEGER.fullmatch(text):
            raise hole(target_name, f"{name!r} has the index {text!r}, not a number", key)
        if int(text) in numbered:
            both = f"{numbered[int(text)]!r} and {name!r}"
            raise hole(target_name, f"{both} have the same index {text}", key)
        numbered[int(text)] = name
    last = max(numbered)
    holes = (index for index in range(last) if index not in numbered)
    listed = ", ".join(map(str, itertools.islice(holes, 5)))
    if listed:
        raise hole(target_name, f"index {listed} is missing; the last is {numbered[last]!r}", key)
    return StackGroup(target_name, tuple(sorted(numbered.items())))
