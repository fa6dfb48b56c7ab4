"""Whether a project's migrations are in order, without any checkpoint: what `ckmigrate check` asks.

One head; no todo; every script loads and stands alone; the base snapshots can be led through all of
them; history.lock and the head snapshots are what the scripts make; no released script was edited;
and the head is today's model. A problem is something that must not be merged, a warning something
that should be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ckmigrate.committed_head import committed_head
from ckmigrate.errors import CkmigrateError
from ckmigrate.identify import Replay
from ckmigrate.locking import (
    head_snapshots,
    lock_problems,
    make_lock,
    snapshot_differences,
)
from ckmigrate.meta import is_unknown_metadata
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import Lock, read_lock
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.self_contained import outside_uses
from ckmigrate.revisions.squashed import stretch_of
from ckmigrate.snapshot import Snapshot, read_snapshot
from ckmigrate.strict import compare, compare_ties, describe, describe_ties

__all__ = [
    "Finding",
    "check_lock",
    "check_model",
    "check_project",
    "check_scripts",
    "check_snapshots",
    "check_squashed",
    "reached_head",
]

Kind = Literal["problem", "warning"]

_MOST_LINES = 40
_UNLOADABLE = "CKM510"
_LOCK = "Run `ckmigrate lock`, and commit what it writes."
_RESTORE = {
    "released": "Restore the script and say what changed in a new one: ckmigrate revision -m …; "
    "or, if no checkpoint can tell, run",
    "unrecorded": "Restore the line from version control; or, if it never had one, run",
}
"""What is not put right by writing the lock anew, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong ("problem", exit 1) or worth knowing ("warning"); path and line are
    where it can be put right, as far as there is one place."""

    kind: Kind
    what: str
    fix: str
    details: tuple[str, ...] = ()
    path: Path | None = None
    line: int | None = None


def check_project(
    project: Project,
    history: History,
    known: Mapping[str, Replay],
    models: Mapping[str, str],
) -> tuple[Finding, ...]:
    """Everything; `models` are the factories by name with which the head is compared, {} for none.

    Raises HistoryError CKM316 where there are several heads, and what building a model raises.
    """
    history.require_single_head()
    return (
        *check_scripts(history),
        *check_snapshots(project, history, known, models),
        *check_squashed(history, known),
        *check_lock(project, history, known),
        *(f for name in models for f in check_model(project, history, name, known)),
    )


def check_scripts(history: History) -> Iterator[Finding]:
    """Todos, needs of live code and files, and scripts that cannot be loaded."""
    for script in history.order:
        yield from _check_script(script)


def _check_script(script: Script) -> Iterator[Finding]:
    if script.has_todo:
        lines = ", ".join(map(str, script.todo_lines))
        what = f"{script.path.name} is not finished: todo in line {lines}"
        fix = "Replace the todo by the operations that are meant."
        yield Finding("problem", what, fix, path=script.path, line=script.todo_lines[0])
    for use in outside_uses(script.source):
        what = f"{script.path.name} {use.what}"
        fix = "Put what it needs into the script: it must still run when that has moved on."
        yield Finding("warning", what, fix, path=script.path, line=use.line)
    try:
        script.load()
    except CkmigrateError as error:
        yield _of_error(error, path=script.path)


def _of_error(error: CkmigrateError, *, what: str | None = None, path: Path | None) -> Finding:
    details = tuple(text for text in (error.where, error.why) if text)
    fix = error.fix or "Correct the script."
    line = _line_of(error.where)
    return Finding("problem", what or error.what, fix, details + error.details, path, line)


def _line_of(where: str | None) -> int | None:
    """The line in a place such as "0004_split.py, line 12: split"."""
    digits = (where or "").rpartition(", line ")[2].partition(":")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else None


def check_snapshots(
    project: Project, history: History, known: Mapping[str, Replay], models: Mapping[str, str]
) -> Iterator[Finding]:
    """That there is a base snapshot for each model, and that every script runs on it."""
    create = "ckmigrate init --from-checkpoint PATH"
    if not known:
        what = f"there is no base snapshot in {project.snapshot_path('any').parent}"
        fix = f"Create it from a checkpoint that is at the base, and commit it: {create}"
        yield Finding("problem", what, fix)
    unknown = [name for name in models if name not in known] if known else []
    for name in unknown:
        # A gate that compares nothing must not look like one that found nothing.
        kind: Kind = "problem" if len(unknown) == len(models) else "warning"
        what = f"model '{name}' has no base snapshot, so the migrations are not compared with it"
        fix = f"Add it: {create} --model-name {name}"
        if kind == "problem":
            fix += f"; or give the model the name of its snapshot ({', '.join(known)}) in `models`"
        yield Finding(kind, what, fix, path=project.config_path)
    for name, replay in known.items():
        if len(replay.schemas()) <= len(history):
            yield from _of_failures(name, replay)


def _of_failures(name: str, replay: Replay) -> Iterator[Finding]:
    for revision, error in replay.failures.items():
        script, label = replay.history.script(revision), replay.history.label(revision)
        if script.has_todo or error.code == _UNLOADABLE:
            continue  # a finding of its own
        if is_unknown_metadata(error):
            what = f"{label} reads metadata, so snapshot '{name}' cannot be led past it"
            fix = (
                "Where it only edits: ck.meta.rename(…, optional=True) asks nothing. A parameter: "
                "read it through ck.params, with a value in [tool.ckmigrate.params]."
            )
            yield Finding("warning", what, fix, path=script.path, line=_line_of(error.where))
        else:
            what = f"{label} fails on snapshot '{name}': {error.what}"
            yield _of_error(error, what=what, path=script.path)


def check_squashed(history: History, known: Mapping[str, Replay]) -> Iterator[Finding]:
    """Squashed scripts that no longer do what their originals do."""
    from ckmigrate.squash.squash import prove

    params = next((replay.params for replay in known.values()), {})
    for squash in history.squashed.values() if known else ():
        try:
            prove(stretch_of(squash, history.scripts) or (), known, params, squash)
        except CkmigrateError as error:
            fix = "Remove it and squash again, or correct the script that was changed."
            yield Finding("problem", error.what, fix, error.details, squash.path)


def check_lock(
    project: Project, history: History, known: Mapping[str, Replay]
) -> Iterator[Finding]:
    """That history.lock and the head snapshots are what the scripts make."""
    path = project.lock_path
    try:
        lock = read_lock(path)
    except CkmigrateError as error:
        yield _of_error(error, path=path)
        return
    if lock is None:
        what = f"there is no {path.name}, so an edit of a released script would not be noticed"
        yield Finding("warning", what, _LOCK)
        return
    yield from _of_lock(path, history, lock, known)
    for name, snapshot in head_snapshots(history, known).items():
        yield from _of_head(project.head_snapshot_path(name), name, snapshot)


def _of_lock(
    path: Path, history: History, lock: Lock, known: Mapping[str, Replay]
) -> Iterator[Finding]:
    problems = lock_problems(history, lock, make_lock(history, known))
    for problem in problems:
        if problem.kind in _RESTORE and problem.revision is not None:
            fix = f"{_RESTORE[problem.kind]} `ckmigrate lock --allow-edited {problem.revision}`."
            place = history.script(problem.revision).path
            yield Finding("problem", problem.what, fix, path=place)
    others = tuple(problem.what for problem in problems if problem.kind not in _RESTORE)
    if others:
        what = f"{path.name} is not what the scripts are"
        yield Finding("problem", what, _LOCK, _shortened(others), path)


def _of_head(path: Path, name: str, wanted: Snapshot) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("warning", f"model '{name}' has no head snapshot {path.name}", _LOCK)
        return
    try:
        found = read_snapshot(path)
    except CkmigrateError as error:
        yield _of_error(error, path=path)
        return
    lines = snapshot_differences(found, wanted)
    if lines:
        what = f"the head snapshot {path.name} is not what the scripts make of the base"
        yield Finding("problem", what, _LOCK, _shortened(lines), path)


def check_model(
    project: Project, history: History, name: str, known: Mapping[str, Replay]
) -> Iterator[Finding]:
    """Where the head is not today's model; imports torch and the project's code."""
    from ckmigrate.target import load_target

    target = load_target(project.models[name], name, python_path=project.python_path)
    reached = reached_head(project, history, name, known)
    if reached is None:
        return
    lines = describe(compare(reached.schema, target.schema, exempt=project.exempt))
    lines += describe_ties(compare_ties(reached.ties, target.ties, reached.schema))
    if lines:
        what = f"the migrations do not lead to model '{name}' ({target.factory})"
        fix = (
            "Draft the migration that is missing: ckmigrate revision --autogenerate "
            '-m "what changed"; or correct the newest one, if no checkpoint went through it yet.'
        )
        yield Finding("problem", what, fix, _shortened(lines))


def reached_head(
    project: Project, history: History, name: str, known: Mapping[str, Replay]
) -> Snapshot | None:
    """The schema of a model at the head: by replay, else as committed; None where neither tells."""
    found = head_snapshots(history, {name: known[name]} if name in known else {}).get(name)
    drafts = any(script.has_todo for script in history.order)
    try:
        return found if found or drafts else committed_head(project, history, name)
    except CkmigrateError:
        return None  # a finding of its own


def _shortened(lines: tuple[str, ...]) -> tuple[str, ...]:
    rest = len(lines) - _MOST_LINES
    return lines[:_MOST_LINES] + ((f"… {rest} more",) if rest > 0 else ())
