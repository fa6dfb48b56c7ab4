"""The fewest renames, by pattern, that give names their new ones.

A call is proposed only where it is right for every name that it matches then: a name that is done
keeps its place. What is special comes first, so that a wide pattern is right for the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ckmigrate.errors import MigrationError
from ckmigrate.names import pair

__all__ = ["Rename", "fewest_renames"]

Rename = tuple[str, str]

_LETTERS = "ijklmn"


def fewest_renames(moved: Mapping[str, str], names: Sequence[str]) -> tuple[Rename, ...] | None:
    """Calls that rename as `moved` says, where all the others of `names` stay; None where none were
    found. What is special comes first, so that a wide pattern is right for what is left."""
    left = {old: new for old, new in moved.items() if old != new}
    settled = [name for name in names if name not in left]
    calls: list[Rename] = []
    while left:
        found = _widest(left, settled)
        if found is None:
            return None
        calls.append(found[0])
        settled += found[1].values()
        left = {old: new for old, new in left.items() if old not in found[1]}
    return tuple(calls)


def _widest(
    left: Mapping[str, str], settled: Sequence[str]
) -> tuple[Rename, Mapping[str, str]] | None:
    """The call that is right for the most names, and what it renames."""
    now = [*left, *settled]
    best: tuple[Rename, Mapping[str, str]] | None = None
    tried: set[Rename] = set()
    for old, new in left.items():
        for rename in _candidates(old, new, left):
            if rename in tried:
                continue
            tried.add(rename)
            table = _table(rename, now, left)
            if table and (best is None or len(table) > len(best[1])):
                best = (rename, table)
    return best


def _table(rename: Rename, now: Sequence[str], left: Mapping[str, str]) -> Mapping[str, str]:
    """What a call renames; {} where that is not what is wanted of any name that it matches."""
    try:
        found = pair(*rename, now, optional=True)
    except MigrationError:
        return {}
    right = all(left.get(old, old) == new for old, new in found.items())
    return {old: new for old, new in found.items() if old != new} if right else {}


def _candidates(old: str, new: str, left: Mapping[str, str]) -> Iterator[Rename]:
    """Patterns that rename `old` to `new`, from the widest to the narrowest."""
    ours, theirs = old.split("."), new.split(".")
    shared = 0
    for mine, other in zip(reversed(ours), reversed(theirs), strict=False):
        if mine != other:
            break
        shared += 1
    for kept in range(shared, -1, -1):
        head, goal = ours[: len(ours) - kept], theirs[: len(theirs) - kept]
        tails = [["**"]] if kept else []
        tails += _narrow(ours[len(ours) - kept :], head, goal, left)
        for tail, (left_side, right_side) in itertools.product(tails, _generalised(head, goal)):
            yield ".".join([*left_side, *tail]), ".".join([*right_side, *tail])


def _narrow(
    tail: list[str], head: list[str], goal: list[str], left: Mapping[str, str]
) -> list[list[str]]:
    """Tails without `**`: the alternatives that the names have in the last segment, or itself."""
    found = [tail]
    if tail and not tail[-1].isdigit():
        begin, end = ".".join([*head, *tail[:-1], ""]), ".".join([*goal, *tail[:-1], ""])
        lasts = [
            old.removeprefix(begin)
            for old, new in left.items()
            if old.startswith(begin) and new == end + old.removeprefix(begin)
        ]
        plain = [last for last in lasts if last and last.replace("_", "a").isalnum()]
        if len(plain) > 1:
            found.insert(0, [*tail[:-1], "{" + ",".join(plain) + "}"])
    return found


def _generalised(head: list[str], goal: list[str]) -> list[tuple[list[str], list[str]]]:
    """The two sides with captures for the numbers that both have in one order; and as they are."""
    ours = [part for part in head if part.isdigit()]
    if not ours or ours != [part for part in goal if part.isdigit()] or len(ours) > len(_LETTERS):
        return [(head, goal)]

    def captured(parts: list[str]) -> list[str]:
        letters = iter(_LETTERS)
        return [f"{{{next(letters)}}}" if part.isdigit() else part for part in parts]

    return [(captured(head), captured(goal)), (head, goal)]
