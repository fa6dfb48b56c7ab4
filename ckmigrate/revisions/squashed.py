"""Squashed scripts in the graph: one script that stands for a linear stretch of others.

    phase    in the folder                 in the graph
    beside   the originals and the squash  the originals; the squash is a shorter way through them
    pruned   the squash alone              the squash, under the id of the last original

A squashed script has the revision id of the last script that it replaces, because both lead to the
same state: what revises that id, and every checkpoint tagged with it, never notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ckmigrate.errors import HistoryError, IdentifyError
from ckmigrate.revisions.script import Script

__all__ = [
    "check_squashed",
    "pruned_away",
    "pruned_ids",
    "set_aside",
    "shortened",
    "stretch_of",
]


def set_aside(scripts: Iterable[Script]) -> tuple[tuple[Script, ...], dict[str, Script]]:
    """The scripts of the graph, and the squashed ones beside their originals, by revision id."""
    kept: list[Script] = []
    beside: dict[str, Script] = {}
    given = tuple(scripts)
    for script in given:
        others = [o for o in given if o.id == script.id and o is not script]
        if len(others) == 1 and set(script.replaces) > {*others[0].replaces, others[0].id}:
            beside[script.id] = script
        else:
            kept.append(script)
    return tuple(kept), beside


def check_squashed(by_id: Mapping[str, Script], beside: Mapping[str, Script]) -> None:
    """HistoryError CKM317 where a squashed script does not stand for what the folder holds."""
    for squash in beside.values():
        stretch = stretch_of(squash, by_id)
        if stretch is None or stretch[0].parents != squash.parents:
            raise _unlike(squash, "the scripts with these ids do not form that stretch")
    for script in by_id.values():
        left = [by_id[one].path.name for one in script.replaces[:-1] if one in by_id]
        if left:
            last = script.replaces[-1]
            raise _unlike(script, f"{', '.join(left)} is there, the script of {last} is not")


def stretch_of(squash: Script, by_id: Mapping[str, Script]) -> tuple[Script, ...] | None:
    """The originals of a squashed script, oldest first; None where they are not as it says."""
    found: list[Script] = []
    wanted = list(squash.replaces)
    while wanted:
        script = by_id.get(wanted[-1])
        ids = [] if script is None else list(script.replaces or (script.id,))
        if script is None or wanted[-len(ids) :] != ids:
            return None
        if found and found[0].parents != (script.id,):
            return None
        found.insert(0, script)
        del wanted[-len(ids) :]
    return tuple(found)


def shortened(
    path: Sequence[Script], beside: Mapping[str, Script], by_id: Mapping[str, Script]
) -> tuple[Script, ...]:
    """A way up, with squashed scripts where all of their originals would run; the longest first."""
    way = tuple(path)
    for squash in sorted(beside.values(), key=lambda script: -len(script.replaces)):
        inner = {script.id for script in stretch_of(squash, by_id) or ()}
        present = {script.id for script in way}
        needed = {p for s in way if s.id not in inner for p in s.parents} & (inner - {squash.id})
        if inner and inner <= present and not needed:
            first = next(place for place, script in enumerate(way) if script.id in inner)
            rest = [script for script in way[first:] if script.id not in inner]
            way = (*way[:first], squash, *rest)
    return way


def pruned_ids(by_id: Mapping[str, Script]) -> dict[str, Script]:
    """Revisions whose scripts are gone, with the squashed script that each became part of."""
    return {one: s for s in by_id.values() for one in s.replaces[:-1] if one not in by_id}


def pruned_away(revision: str, squash: Script) -> IdentifyError:
    """That nothing here knows the way on from a revision, and which version still did."""
    record = squash.pruned
    words = [f"version {record['version']}"] if "version" in record else []
    words += [f"release {record['release']}"] if "release" in record else []
    words += [f"commit {record['commit']}"] if "commit" in record else []
    known = f"the last that still has it: {', '.join(words)}" if words else "its scripts are gone"
    return IdentifyError(
        "CKM415",
        f"revision {revision} lies inside a stretch that was squashed and pruned",
        where=str(squash.path),
        why=f"{squash.label} leads only from before the stretch to its end; {known}",
        fix=f"Upgrade the checkpoint with that version of the project to {squash.id}, then here.",
    )


def _unlike(script: Script, why: str) -> HistoryError:
    return HistoryError(
        "CKM317",
        f"{script.path.name} does not replace what it says",
        where=str(script.path),
        details=script.replaces,
        why=why,
        fix="Restore the scripts that it replaces; `ckmigrate prune` removes them, all at once.",
    )
