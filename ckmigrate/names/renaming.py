"""Renames: every old name with its new one, all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set

from ckmigrate.names.compiling import compile_pattern
from ckmigrate.names.errors import collision, no_capture, unfit
from ckmigrate.names.filling import check_writable, fill
from ckmigrate.names.likeness import nothing_matches
from ckmigrate.names.pattern import Pattern, PatternLike, collection, scan
from ckmigrate.names.rewriting import rewrite

__all__ = ["check_sides", "pair"]


def pair(
    old: PatternLike, new: PatternLike, names: Iterable[str], *, optional: bool = False
) -> dict[str, str]:
    """New names by existing ones, of one simultaneous rename, in the order of `names`.

    No new name is matched again, so swaps (`{a,b}` to `{b,a}`) and shifts (`{i}` to `{i+1}`) are
    complete renames. CKM504: the sides do not fit. CKM505: nothing matches, unless `optional`.
    CKM506: two entries would get one name; every such collision is listed.
    """
    source, target = compile_pattern(old), compile_pattern(new)
    check_sides(source, target)
    known = collection(names)
    rewritten = rewrite(source, target, known)
    moved = _filled(source, target, known) if rewritten is None else rewritten
    if not moved and not optional:
        raise nothing_matches(source.text, known)
    _check_bijection(moved, known)
    return moved


def _filled(source: Pattern, target: Pattern, known: Collection[str]) -> dict[str, str]:
    return {name: fill(target, found) for name, found in scan(source, known)}


def check_sides(source: Pattern, target: Pattern) -> None:
    """Everything about two patterns that needs no names."""
    check_writable(target)
    unknown = [key for key in target.captures if key not in source.captures]
    if unknown:
        raise unfit(target.text, no_capture(unknown[0], source.keys))
    _check_count(source, target, "anonymous wildcards", *map(_anonymous, (source, target)))
    _check_count(source, target, "groups of alternatives", source.alternatives, target.alternatives)
    for ours, theirs in zip(source.alternatives, target.alternatives, strict=False):
        if len(ours) != len(theirs):
            raise unfit(target.text, f"it lists {len(theirs)} alternatives, the source {len(ours)}")
    for mine, other in zip(_anonymous(source), _anonymous(target), strict=False):
        if (mine, other) == ("deep", "one"):
            raise unfit(target.text, f"'*' is one segment where {source.text!r} has '**'")


def _anonymous(pattern: Pattern) -> tuple[str, ...]:
    return tuple(part.kind for part in pattern.parts if part.key.startswith("*"))


def _check_count(
    source: Pattern, target: Pattern, noun: str, ours: Sequence[object], theirs: Sequence[object]
) -> None:
    """They pair in order; leaving out some but not all would be a guess which."""
    if theirs and len(theirs) != len(ours):
        raise unfit(target.text, f"it has {len(theirs)} {noun}, {source.text!r} has {len(ours)}")


def _check_bijection(moved: Mapping[str, str], known: Collection[str]) -> None:
    made = set(moved.values())
    kept = {name for name in known if name not in moved}
    if len(made) < len(moved) or not made.isdisjoint(kept):
        raise collision(_collisions(moved, kept))


def _collisions(moved: Mapping[str, str], kept: Set[str]) -> list[str]:
    sources: dict[str, str] = {}
    problems: list[str] = []
    for old, new in moved.items():
        first = sources.setdefault(new, old)
        if first != old:
            problems.append(f"{first!r} and {old!r} would both become {new!r}")
        elif new in kept:
            problems.append(f"{old!r} would become {new!r}, which already exists")
    return problems
