"""What the scripts do, recorded in files that are committed beside them.

history.lock has a line for each revision, `schema/NAME.json` the schema of each model at the head.
Both are read off a replay of the base snapshots, so they can be written anew at any time; a
difference means that a script does other things than when it was recorded. That is how an edit of a
released script is noticed, whose checkpoints are out there already.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ckmigrate.digest import digest
from ckmigrate.errors import HistoryError
from ckmigrate.identify import Replay
from ckmigrate.meta import is_unknown_metadata
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import (
    UNKNOWN,
    Lock,
    LockLine,
    parse_lock,
    read_sides,
    render_lock,
)
from ckmigrate.revisions.script import Script
from ckmigrate.signature import signature_text
from ckmigrate.snapshot import Snapshot, render_snapshot
from ckmigrate.strict import compare, compare_ties, describe, describe_ties, notes
from ckmigrate.text_file import replace_text

__all__ = [
    "LockProblem",
    "add_line",
    "edited",
    "head_snapshots",
    "lock_problems",
    "make_lock",
    "record_files",
    "released",
    "snapshot_differences",
    "stale_files",
    "write_lock_and_snapshots",
]

_TODO = "CKM528"
_LONGEST_SLUG = 80

Kind = Literal["missing", "unrecorded", "unknown", "order", "digest", "released", "signature"]


@dataclass(frozen=True, slots=True)
class LockProblem:
    """One thing in which the lock is not what the scripts are.

    kind      "missing": a script without a line, "unrecorded": and checkpoints that it made are out
              there; "unknown": a line without a script; "order";
              "digest": a script does other things than recorded, "released": and checkpoints that
              it made are out there; "signature": it leads to another schema
    revision  None for the order, which is that of all
    """

    kind: Kind
    revision: str | None
    what: str


def make_lock(history: History, known: Mapping[str, Replay]) -> Lock:
    """What the scripts do now, on each base snapshot; `known` by the names of the models."""
    replays = [known[name] for name in sorted(known)]
    return Lock(tuple(_line(script, replays) for script in history.order))


def add_line(lock: Lock, script: Script) -> Lock:
    """The lock with a last line for a script of which nothing is known yet."""
    return Lock((*lock.lines, LockLine(script.id, UNKNOWN, UNKNOWN, _slug(script))))


def _line(script: Script, replays: Iterable[Replay]) -> LockLine:
    digests, signatures = [], []
    for replay in replays:
        traced = replay.traced(script.id)
        digests.append(UNKNOWN if traced is None else digest(traced, replay.params))
        signatures.append(UNKNOWN if traced is None else signature_text(traced.after.schema))
    return LockLine(script.id, _joined(digests), _joined(signatures), _slug(script))


def _joined(values: list[str]) -> str:
    """One value where all are equal."""
    return ",".join(values if len(set(values)) > 1 else values[:1]) or UNKNOWN


def _slug(script: Script) -> str:
    words = script.slug or script.message
    return re.sub(r"[^\w.-]+", "_", words)[:_LONGEST_SLUG].strip("_") or "revision"


def released(history: History) -> frozenset[str]:
    """Revisions of which checkpoints are out there: they declare a release, or one after them
    does."""
    named = [script.id for script in history.order if script.release]
    return frozenset(named).union(*(history.ancestors(revision) for revision in named))


def edited(lock: Lock, fresh: Lock) -> tuple[str, ...]:
    """Revisions whose operations are others than recorded, as far as the digests can be compared:
    both known, by one algorithm, of the same models."""
    lines = {line.revision: line for line in lock.lines}
    return tuple(
        now.revision
        for now in fresh.lines
        if now.revision in lines and _differ(lines[now.revision].digests, now.digests)
    )


def _differ(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    if set(old) == set(new):
        return False
    if len(old) != len(new):  # a model was added or removed
        return not set(old) & set(new) and all(map(_comparable, old, new))
    return any(one != two for one, two in zip(old, new, strict=True) if _comparable(one, two))


def _comparable(one: str, two: str) -> bool:
    is_known = UNKNOWN not in (one, two)
    return is_known and one.partition(":")[0] == two.partition(":")[0]


def lock_problems(history: History, lock: Lock, fresh: Lock) -> tuple[LockProblem, ...]:
    """Every way in which a lock is not `fresh`, which is `make_lock` of the same history. The slug
    is for people and not compared."""
    ours, theirs = set(lock.revisions), set(history.scripts)
    lost = set(_unrecorded(history, lock))
    found = [_missing(history, one, lost) for one in fresh.revisions if one not in ours]
    found += [_unknown(line) for line in lock.lines if line.revision not in theirs]
    kept = [revision for revision in lock.revisions if revision in theirs]
    if kept != [revision for revision in fresh.revisions if revision in ours]:
        what = "the lines are not in the order of the scripts, parents first"
        found.append(LockProblem("order", None, what))
    return (*found, *_changes(history, lock, fresh))


def _missing(history: History, revision: str, lost: Collection[str]) -> LockProblem:
    label = history.label(revision)
    if revision in lost:
        return LockProblem("unrecorded", revision, f"{label} was released and has no line")
    return LockProblem("missing", revision, f"{label} has no line")


def _unrecorded(history: History, lock: Lock) -> tuple[str, ...]:
    """Released revisions without a line in a lock that has lines: `ckmigrate revision` adds one at
    once, so that it was deleted, and with it what an edit of the script is noticed by."""
    out, known = released(history), set(lock.revisions)
    return tuple(r for r in history.scripts if known and r in out and r not in known)


def _unknown(line: LockLine) -> LockProblem:
    what = f"there is no script of revision {line.revision} ({line.slug})"
    return LockProblem("unknown", line.revision, what)


def _changes(history: History, lock: Lock, fresh: Lock) -> Iterator[LockProblem]:
    lines, changed = {line.revision: line for line in lock.lines}, set(edited(lock, fresh))
    out = _edited_releases(history, changed)
    for now in fresh.lines:
        old, label = lines.get(now.revision), history.label(now.revision)
        if old is None:
            continue
        if now.revision in out:
            what = f"{label} was released and does other things than when it was recorded"
            yield LockProblem("released", now.revision, what)
        elif old.digest != now.digest:
            yield LockProblem("digest", now.revision, f"{label} {_what_changed(old, now)}")
        elif old.signature != now.signature:
            what = f"{label} leads to another schema than recorded"
            yield LockProblem("signature", now.revision, what)


def _what_changed(old: LockLine, now: LockLine) -> str:
    if set(old.digests) == {UNKNOWN}:
        return "is not recorded yet"
    if UNKNOWN in now.digests:
        return "cannot be replayed any more"
    return "does other things than when it was recorded"


def _edited_releases(history: History, changed: set[str]) -> tuple[str, ...]:
    """The released ones among the changed. Those that come after another changed one are left out:
    what they find, and so what they do, follows from that."""
    out = released(history)
    return tuple(
        revision
        for revision in history.scripts
        if revision in changed and revision in out and not history.ancestors(revision) & changed
    )


def head_snapshots(history: History, known: Mapping[str, Replay]) -> dict[str, Snapshot]:
    """The schema of each model at the head, as far as it can be replayed; {} where there are
    several heads."""
    if len(history.heads) > 1:
        return {}
    head = next(iter(history.heads), None)
    return {
        name: snapshot
        for name, replay in known.items()
        if (snapshot := _at(replay, head, name)) is not None
    }


def _at(replay: Replay, revision: str | None, name: str) -> Snapshot | None:
    if revision is None:
        return replace(replay.base, model=name)
    traced = replay.traced(revision)
    return None if traced is None else Snapshot(traced.after.schema, traced.after.ties, name)


def snapshot_differences(found: Snapshot, wanted: Snapshot) -> tuple[str, ...]:
    """Where two snapshots differ, in lines; widths of floats count too."""
    both = [name for name in wanted.schema if name in found.schema]
    lines = describe(compare(found.schema, wanted.schema), found="snapshot", wanted="replay")
    lines += tuple(
        f"{'width':<11} {d.name} is {d.found.dtype}, the replay makes it {d.wanted.dtype}"
        for d in notes(found.schema, wanted.schema)
        if d.found and d.wanted
    )
    return lines + describe_ties(compare_ties(found.ties, wanted.ties, both))


def stale_files(project: Project, history: History, known: Mapping[str, Replay]) -> dict[Path, str]:
    """The text of the lock and of each head snapshot, where the file holds another."""
    files = {project.lock_path: render_lock(make_lock(history, known))}
    for name, snapshot in head_snapshots(history, known).items():
        files[project.head_snapshot_path(name)] = render_snapshot(snapshot)
    return {path: text for path, text in files.items() if _text_of(path) != text}


def _text_of(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    except OSError:
        return None


def write_lock_and_snapshots(
    project: Project,
    history: History,
    known: Mapping[str, Replay],
    *,
    allow_edited: Collection[str] = (),
) -> tuple[Path, ...]:
    """Bring history.lock and the head snapshots up to date; the files that were written.

    Raises what `record_files` raises, StorageError CKM792.
    """
    texts = record_files(project, history, known, allow_edited=allow_edited)
    return tuple(path for path, text in texts.items() if replace_text(path, text))


def record_files(
    project: Project,
    history: History,
    known: Mapping[str, Replay],
    *,
    allow_edited: Collection[str] = (),
) -> dict[Path, str]:
    """What history.lock and the head snapshots have to become, where they are something else.

    `allow_edited` are revisions that may do other things than recorded, or have no line, although
    they were released.
    A lock that git could not merge is compared on both sides, and written anew; one that cannot be
    read is refused, because an edit could hide behind the damage.

    Raises what stops a script on a base snapshot (a todo and a read of metadata do not),
    HistoryError CKM320 to CKM324 where the lock cannot be read, CKM325 where a released script was
    edited, CKM327 where its line is gone.
    """
    _require_replayed(history, known)
    stale = stale_files(project, history, known)
    if project.lock_path in stale:
        fresh = parse_lock(stale[project.lock_path], str(project.lock_path))
        _require_unedited(project, history, fresh, allow_edited)
    return stale


def _require_replayed(history: History, known: Mapping[str, Replay]) -> None:
    for replay in known.values():
        replay.schemas()
        for revision, error in replay.failures.items():
            is_draft = error.code == _TODO or history.script(revision).has_todo
            if not is_draft and not is_unknown_metadata(error):
                raise error


def _require_unedited(
    project: Project, history: History, fresh: Lock, allowed: Collection[str]
) -> None:
    lock = _recorded(project.lock_path)
    if lock is None:
        return
    lost = [revision for revision in _unrecorded(history, lock) if revision not in allowed]
    if lost:
        raise HistoryError(
            "CKM327",
            "a released script has no line in history.lock",
            where=str(project.lock_path),
            details=tuple(history.label(revision) for revision in lost),
            why="Nothing tells whether it still does what it did when checkpoints went through it.",
            fix="Restore the line from version control; or, if it never had one, record the script "
            f"as it is: {_allowing(lost)}.",
        )
    changed = _edited_releases(history, set(edited(lock, fresh)))
    refused = [revision for revision in changed if revision not in allowed]
    if refused:
        raise HistoryError(
            "CKM325",
            "a released script was edited",
            where=str(project.lock_path),
            details=tuple(history.label(revision) for revision in refused),
            why="Checkpoints that went through it are out there, and would differ from those that "
            "go through it now.",
            fix="Restore the script and say what changed in a new one: ckmigrate revision -m …; "
            f"or, if no checkpoint can tell, {_allowing(refused)}.",
        )


def _allowing(revisions: Iterable[str]) -> str:
    return " ".join(["ckmigrate lock", *(f"--allow-edited {one}" for one in revisions)])


def _recorded(path: Path) -> Lock | None:
    """What was recorded, on both sides where git could not merge; None where there is no lock."""
    sides = read_sides(path)
    if sides is None:
        return None
    lines = {line.revision: line for line in (*sides.theirs.lines, *sides.ours.lines)}
    return Lock(tuple(lines.values()))
