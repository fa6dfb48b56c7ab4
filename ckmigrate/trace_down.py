"""The way back: scripts are undone by what they did on the way here, which is traced again.

MigrationError CKM551 where there are several ways back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ckmigrate.case import Case
from ckmigrate.compile import State, Trace, TracedScript, start, trace, trace_back
from ckmigrate.errors import MigrationError
from ckmigrate.revisions.script import Script

__all__ = ["trace_down"]


def trace_down(case: Case) -> Trace:
    """The scripts from where a checkpoint is down to where it is wanted, undone."""
    scripts = case.history.path_down(case.identity.revision, case.wanted)
    return trace_back(scripts, case.start, case.params, _replay_before(case))


def _replay_before(case: Case) -> dict[str, TracedScript]:
    """The upgrade that led here, traced again on the schema that it started from.

    That schema is in the tag of a file that ckmigrate upgraded; otherwise the base snapshot serves
    if it leads to exactly this file's schema. {} where neither does.
    """
    tag = case.identity.tag
    recorded = tag.origin_schema() if tag else None
    reached = None
    if tag is not None and recorded is not None:
        reached = _retraced(case, tag.origin_revision, start(recorded))
    if reached is None:
        reached = _retraced_from_snapshot(case)
    old = {item.revision: dict(item.meta) for item in tag.history} if tag else {}
    return {
        traced.script.id: _with_old_values(traced, _old_values(case, traced.script, old))
        for traced in (reached.scripts if reached else ())
    }


def _retraced_from_snapshot(case: Case) -> Trace | None:
    """The way from the one base snapshot that leads to this file's schema.

    MigrationError CKM551 where several do and what they had on the way differs: equal parts and
    unequal ones can be joined into the same tensor.
    """
    found: dict[str, Trace] = {}
    for name, replay in case.known.items():
        reached = _retraced(case, None, start(replay.base.schema, ties=replay.base.ties))
        if reached is not None and case.request.model in (None, name):
            found[name] = reached
    undone = {script.id for script in case.history.path_down(case.identity.revision, case.wanted)}
    ways = {
        name: [traced.before.schema for traced in way.scripts if traced.script.id in undone]
        for name, way in found.items()
    }
    first = next(iter(found), None)
    if first is None or all(way == ways[first] for way in ways.values()):
        return found[first] if first is not None else None
    raise MigrationError(
        "CKM551",
        "there are several ways back; nothing was changed",
        where=str(case.opened.stored.path),
        details=tuple(f"the snapshot '{name}'" for name in found),
        why="The scripts make this file's names and shapes of each of these, and what they were "
        "made of is not the same. The file itself does not remember.",
        fix="Say which model it is: --model NAME.",
    )


def _old_values(
    case: Case, script: Script, old: Mapping[str, Mapping[str, str | None]]
) -> dict[str, str | None]:
    """What the tag remembers of a script's metadata: of a squashed one also under its originals, of
    an original that did not run itself under its squash."""
    whole = () if script.id in old else case.history.squashed.values()
    known = [squash.id for squash in whole if script.id in squash.replaces]
    return {
        path: text
        for revision in (*known, *reversed(script.replaces), script.id)
        for path, text in old.get(revision, {}).items()
    }


def _with_old_values(traced: TracedScript, old: Mapping[str, str | None]) -> TracedScript:
    """The records of a replay, with the old metadata that the tag remembers."""
    records = tuple(
        replace(record, edit=record.edit.with_old(old[record.edit.path]))
        if record.edit is not None and record.edit.path in old
        else record
        for record in traced.records
    )
    return replace(traced, records=records)


def _retraced(case: Case, origin: str | None, state: State) -> Trace | None:
    """The way from an origin to where the file is; None where it does not pass the wanted revision
    or leads to another schema."""
    history, wanted = case.history, case.wanted
    if origin not in {None, wanted, *(history.ancestors(wanted) if wanted else ())}:
        return None
    try:
        # In two parts: a squashed script may stand for neither when the stop lies inside of it.
        way = history.path_up(origin, wanted) + history.path_up(wanted, case.identity.revision)
        reached = trace(way, state, case.params)
    except MigrationError:
        return None
    return reached if reached.end.schema == case.opened.schema else None
