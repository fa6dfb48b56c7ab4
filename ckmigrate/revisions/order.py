"""The order of a history: what must come before what, and every way in which that can be broken.

Pure functions on scripts. An order lists parents first; among scripts that are ready, the one with
the smaller file number, then the smaller id, so that two readers of the same files agree.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from ckmigrate.errors import HistoryError
from ckmigrate.revisions.script import Script

__all__ = [
    "check_bases",
    "check_former",
    "children_of",
    "former_ids",
    "nearest_scripts",
    "ordered",
    "reachable",
    "scripts_by_id",
]


def ordered(by_id: Mapping[str, Script]) -> tuple[Script, ...]:
    """The scripts, parents first.

    Raises HistoryError: CKM312 (a parent is missing), CKM313 (a cycle), CKM314 (a merge that joins
    nothing).
    """
    _check_parents(by_id)
    order = _topological(by_id)
    _check_merges(order, by_id)
    return order


def check_bases(order: tuple[Script, ...], folder: Path) -> None:
    """HistoryError CKM315 when more than one script has no parent."""
    roots = [script for script in order if not script.parents]
    if len(roots) > 1:
        raise HistoryError(
            "CKM315",
            f"the history has {len(roots)} first scripts",
            where=str(folder),
            details=tuple(script.label for script in roots),
            why="one history has one base, so only one script may have `revises = None`",
            fix="Let the others revise an existing revision.",
        )


def scripts_by_id(scripts: Iterable[Script]) -> dict[str, Script]:
    """The scripts by id; HistoryError CKM311 when two have the same."""
    by_id: dict[str, Script] = {}
    for script in scripts:
        first = by_id.setdefault(script.id, script)
        if first is not script:
            raise HistoryError(
                "CKM311",
                f"two scripts have the revision id {script.id}",
                where=str(script.path),
                details=(str(first.path), str(script.path)),
                why="an id names one script for ever; a copied file keeps the id of its original",
                fix="Give the newer file an id of its own (`ckmigrate revision` makes one).",
            )
    return by_id


def former_ids(by_id: Mapping[str, Script]) -> dict[str, Script]:
    """The scripts by the ids that they had before a rebase."""
    return {old: script for script in by_id.values() for old, _ in script.formerly}


def check_former(by_id: Mapping[str, Script]) -> None:
    """HistoryError CKM337 where a script stands beside what a rebase made of it."""
    made: dict[str, Script] = {}
    for script in by_id.values():
        for old, _ in script.formerly:
            other = by_id.get(old) or made.setdefault(old, script)
            if other is script:
                continue
            raise HistoryError(
                "CKM337",
                f"revision {old} is in the history twice: {script.label} was made of it",
                where=str(script.path),
                details=(str(other.path), str(script.path)),
                why="one branch came here before and after a rebase, or after two",
                fix="Remove the file that is not to stay; where the other branch was merged already"
                ", that is the rebased one.",
            )


def _check_parents(by_id: Mapping[str, Script]) -> None:
    links = [(script, parent) for script in by_id.values() for parent in script.parents]
    missing = [(script, parent) for script, parent in links if parent not in by_id]
    if not missing:
        return
    script, parent = missing[0]
    why = nearest_scripts(parent, by_id) or "the script with that id is not in the folder"
    fix = "Restore the missing script, or correct `revises`."
    if parent in (renamed := former_ids(by_id)):
        why = f"a rebase made {renamed[parent].label} of it"
        fix = "Put this script behind that one: ckmigrate rebase."
    raise HistoryError(
        "CKM312",
        f"{script.label} revises '{parent}', which no script has",
        where=str(script.path),
        details=tuple(f"{child.label} revises '{absent}'" for child, absent in missing[1:]),
        why=why,
        fix=fix,
    )


def _topological(by_id: Mapping[str, Script]) -> tuple[Script, ...]:
    scripts = by_id.values()
    children = children_of(scripts)
    waiting = {script.id: len(set(script.parents)) for script in scripts}
    ready = [(*_sort_key(script), script.id) for script in scripts if not script.parents]
    heapq.heapify(ready)
    order: list[Script] = []
    while ready:
        script = by_id[heapq.heappop(ready)[-1]]
        order.append(script)
        for child in children[script.id]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (*_sort_key(by_id[child]), child))
    if len(order) < len(scripts):
        raise _cycle({child for child, parents in waiting.items() if parents}, by_id)
    return tuple(order)


def _sort_key(script: Script) -> tuple[bool, int]:
    return (script.number is None, script.number or 0)


def children_of(scripts: Iterable[Script]) -> dict[str | None, tuple[str, ...]]:
    """Ids of the scripts that revise an id, in the given order; None has the roots."""
    children: dict[str | None, list[str]] = {None: []}
    for script in scripts:
        children.setdefault(script.id, [])
        for parent in dict.fromkeys(script.parents or (None,)):
            children.setdefault(parent, []).append(script.id)
    return {parent: tuple(ids) for parent, ids in children.items()}


def _cycle(stuck: set[str], by_id: Mapping[str, Script]) -> HistoryError:
    trail = [min(stuck)]
    while trail[-1] not in trail[:-1]:
        trail.append(next(step for step in by_id[trail[-1]].parents if step in stuck))
    ring = trail[trail.index(trail[-1]) :]
    return HistoryError(
        "CKM313",
        "the history goes round in a ring",
        where=str(by_id[ring[0]].path),
        details=tuple(
            f"{by_id[child].label} revises {by_id[parent].label}"
            for child, parent in pairwise(ring)
        ),
        why="a script cannot come after itself",
        fix="Correct `revises` in one of these scripts.",
    )


def _check_merges(order: tuple[Script, ...], by_id: Mapping[str, Script]) -> None:
    for script in order:
        for parent, why in _needless_parents(script, by_id):
            raise HistoryError(
                "CKM314",
                f"the merge {script.label} joins nothing: it names '{parent}' needlessly",
                where=str(script.path),
                why=why,
                fix=f"Remove '{parent}' from `revises`.",
            )


def _needless_parents(script: Script, by_id: Mapping[str, Script]) -> Iterator[tuple[str, str]]:
    for index, parent in enumerate(script.parents):
        if parent in script.parents[:index]:
            yield parent, f"{by_id[parent].label} is named twice"
        for other in script.parents:
            if other != parent and parent in reachable(other, by_id):
                yield parent, f"{by_id[parent].label} comes before {by_id[other].label} already"


def reachable(revision: str, by_id: Mapping[str, Script]) -> frozenset[str]:
    """The id and everything before it."""
    found, waiting = {revision}, [revision]
    while waiting:
        for parent in by_id[waiting.pop()].parents:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return frozenset(found)


def nearest_scripts(revision: str, by_id: Mapping[str, Script]) -> str | None:
    """A sentence with the ids that look like this one; None where there is none."""
    from difflib import get_close_matches

    near = get_close_matches(revision, by_id, n=3, cutoff=0.6)
    return f"nearest: {', '.join(by_id[one].label for one in near)}" if near else None
