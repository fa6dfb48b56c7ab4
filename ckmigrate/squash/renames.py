"""The fewest renames, by pattern, that give names their new ones.

A call is proposed only where it is right for every name that there is: it gives each name that it
matches the new name, and matches no name that keeps its own. The calls run one after another, so the
whole is tried out on the names before it is proposed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ckmigrate.errors import MigrationError
from ckmigrate.names import pair

__all__ = ["Rename", "fewest_renames"]

Rename = tuple[str, str]

_LETTERS = "ijklmn"


def fewest_renames(
    moved: Mapping[str, str], names: Sequence[str], *, general: bool = True
) -> tuple[Rename, ...] | None:
    """Calls that rename as `moved` says, where all the others of `names` stay; None where none were
    found. `general` allows `**`, which also fits names that are not here."""
    wanted = {old: new for old, new in moved.items() if old != new}
    left = dict(wanted)
    chosen: list[Rename] = []
    tables: dict[Rename, dict[str, str]] = {}
    while left:
        for old, new in left.items():
            for rename in _candidates(old, new, left, general=general):
                if rename not in tables:
                    tables[rename] = _table(rename, names, wanted)
        best = max(tables, key=lambda r: len(tables[r].keys() & left.keys()), default=None)
        if best is None or not tables[best].keys() & left.keys():
            return None
        chosen.append(best)
        left = {old: new for old, new in left.items() if old not in tables[best]}
    calls = tuple(chosen)
    return calls if _tried(calls, names) == {name: wanted.get(name, name) for name in names} else None


def _table(rename: Rename, names: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What a call renames; {} where that is not what is wanted of any name that it matches."""
    try:
        found = pair(*rename, names, optional=True)
    except MigrationError:
        return {}
    right = all(wanted.get(old, old) == new for old, new in found.items())
    return {old: new for old, new in found.items() if old != new} if right else {}


def _tried(calls: Sequence[Rename], names: Sequence[str]) -> dict[str, str] | None:
    now = {name: name for name in names}
    for call in calls:
        try:
            step = pair(*call, list(now.values()))
        except MigrationError:
            return None
        now = {first: step.get(name, name) for first, name in now.items()}
    return now


def _candidates(
    old: str, new: str, left: Mapping[str, str], *, general: bool
) -> Iterator[Rename]:
    """Patterns that rename `old` to `new`, from the widest to the narrowest."""
    ours, theirs = old.split("."), new.split(".")
    shared = 0
    for mine, other in zip(reversed(ours), reversed(theirs), strict=False):
        if mine != other:
            break
        shared += 1
    for kept in range(shared, -1, -1):
        head, goal = ours[: len(ours) - kept], theirs[: len(theirs) - kept]
        tails = [["**"]] if kept and general else []
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
