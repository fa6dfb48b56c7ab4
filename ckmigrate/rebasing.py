"""A rebase, decided completely: which branch is put behind which, and what every file becomes.

Nothing is written here. The sides are read off a lock that git could not merge, or named; the moved
scripts are replayed on every base snapshot before anything is said to be possible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from ckmigrate.errors import CkmigrateError, HistoryError, UsageError
from ckmigrate.git_state import GitState, read_git_state
from ckmigrate.identify import Replay
from ckmigrate.meta import is_unknown_metadata
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History, build_history, read_scripts
from ckmigrate.revisions.lock import Conflict, Lock, is_conflicted, parse_conflicted
from ckmigrate.revisions.rebase import Moved, local_scripts, loose_history, moved
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.squashed import set_aside
from ckmigrate.revisions.targets import resolve
from ckmigrate.revisions.template import new_revision_id

__all__ = ["Rebase", "Sides", "find_sides", "plan_rebase", "require_replayed"]

_TODO = "CKM528"


@dataclass(frozen=True, slots=True)
class Sides:
    """What is to come after what; `branch` is None where one head contains all.

    why  how that was found out, for people
    """

    onto: str
    branch: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Rebase:
    """A decided rebase.

    moved    the scripts that move, oldest first; none where each is where it belongs
    history  the history afterwards
    before   the history as it was, as far as there was one
    git      what git is in the middle of
    """

    sides: Sides
    moved: tuple[Moved, ...]
    history: History
    before: History
    git: GitState | None

    @property
    def scripts(self) -> dict[Path, bytes | None]:
        """What becomes of the files of scripts; None: it goes."""
        files: dict[Path, bytes | None] = {each.new.path: each.data for each in self.moved}
        gone = [each.old.path for each in self.moved if each.old.path not in files]
        return files | dict.fromkeys(gone)


def plan_rebase(
    project: Project,
    *,
    onto: str | None = None,
    branch: str | None = None,
    new_id: Callable[[], str] = new_revision_id,
) -> Rebase:
    """Decide a rebase; `onto` and `branch` are revisions as a user names them.

    UsageError CKM244 where it cannot be told what is to come after what; HistoryError CKM331 to
    CKM335 and what reading the scripts and the lock raises.
    """
    scripts = read_scripts(project.migrations)
    before = loose_history(scripts, folder=project.migrations)
    written = {script.id: script for script in set_aside(scripts)[0]}
    git = read_git_state(project.root)
    sides = find_sides(before, _conflict(project), git, onto=onto, branch=branch)
    sides = _with_orphans(before, written, sides)
    moving: tuple[Script, ...] = ()
    if sides.branch is not None:
        moving = local_scripts(before, written, sides.onto, sides.branch)
    done = moved(moving, before, sides.onto, new_id)
    gone = {each.old.id for each in done}
    kept = [script for script in scripts if script.id not in gone]
    after = build_history([*kept, *(each.new for each in done)], folder=project.migrations)
    return Rebase(sides, done, after, before, git)


def _with_orphans(history: History, written: Mapping[str, Script], sides: Sides) -> Sides:
    """Also with one head, scripts may still revise what an earlier rebase moved: git brings the
    commits of a branch one after another."""
    orphans = [one for one in history.order if written[one.id].revises != one.revises]
    if sides.branch is not None or not orphans:
        return sides
    first = orphans[0]
    why = f"{first.label} revises what was rebased already"
    return Sides(first.parents[0], sides.onto, why)


def find_sides(
    history: History,
    conflict: Conflict | None,
    git: GitState | None,
    *,
    onto: str | None,
    branch: str | None,
) -> Sides:
    """Which head stays, and which one is to come after it."""
    if not len(history):
        raise UsageError("CKM244", "there are no revisions yet", fix="Nothing has to be moved.")
    if onto is not None:
        found = resolve(history, onto) or ""
        why = "--onto"
    elif len(history.heads) == 1:
        return Sides(history.heads[0], None, "the history has one head")
    else:
        found, why = _upstream(history, conflict, git)
    return Sides(_head(history, found), _branch(history, found, branch), why)


def _upstream(history: History, conflict: Conflict | None, git: GitState | None) -> tuple[str, str]:
    """The head of the side that stays, as git tells it."""
    local = git.local if git else None
    if local is None and conflict is not None and conflict.names[1] == "Stashed changes":
        local = "theirs"
    if conflict is None or local is None:
        raise _untold(history, git)
    lock = conflict.theirs if local == "ours" else conflict.ours
    heads = _heads_of(history, lock)
    if len(heads) != 1:
        raise _untold(history, git)
    doing = git.doing if git else "git stash pop"
    return heads[0], f"{doing}: the conflict in history.lock tells which side is yours"


def _heads_of(history: History, lock: Lock) -> list[str]:
    """Of the revisions in a lock, those that no other one of it revises."""
    missing = [line for line in lock.lines if line.revision not in history]
    missing = [line for line in missing if history.rebased(line.revision) is None]
    if missing:
        raise HistoryError(
            "CKM335",
            "history.lock names revisions that have no script here",
            where=str(history.folder),
            details=tuple(f"{line.revision} ({line.slug})" for line in missing),
            why="the scripts of both branches must be there before one is put behind the other",
            fix="Restore the files (git checkout REV -- FILE), or name the head that stays: "
            "ckmigrate rebase --onto REV.",
        )
    known = [revision for revision in lock.revisions if revision in history]
    behind = {parent for revision in known for parent in history.ancestors(revision)}
    return [revision for revision in known if revision not in behind]


def _untold(history: History, git: GitState | None) -> UsageError:
    why = "git is not in the middle of a merge or a rebase"
    if git is not None:
        why = f"{git.doing} is under way, but history.lock does not tell the two sides apart"
    return UsageError(
        "CKM244",
        "it cannot be told which branch is to come after which",
        where=str(history.folder),
        details=tuple(f"head {history.label(head)}" for head in history.heads),
        why=why,
        fix=f"Say which head stays as it is: ckmigrate rebase --onto {history.heads[0]}"
        + "".join(f"; or --onto {head}" for head in history.heads[1:3])
        + ".",
    )


def _head(history: History, onto: str) -> str:
    if not onto:
        raise UsageError(
            "CKM244",
            "a branch cannot be put onto the base",
            fix="Name the head that stays as it is: `ckmigrate heads` lists them.",
        )
    return onto


def _branch(history: History, onto: str, branch: str | None) -> str | None:
    """The head that has to move; None where there is none."""
    if branch is not None:
        found = resolve(history, branch)
        if found is None or found in history.ancestors(onto) | {onto}:
            raise UsageError(
                "CKM244",
                f"{history.label(found)} comes before {history.label(onto)} already",
                fix="Name the head of the branch that is to move: `ckmigrate heads` lists them.",
            )
        others = history.children[found]
        if others:
            raise UsageError(
                "CKM244",
                f"{history.label(found)} is not the end of its branch",
                details=tuple(f"{history.label(one)} comes after it" for one in others),
                fix="Name the head of the branch: it moves with all that leads to it.",
            )
        return found
    rest = [head for head in history.heads if head != onto]
    beside = [head for head in rest if onto not in history.ancestors(head)]
    if len(rest) > 1 or (beside and onto not in history.heads):
        raise UsageError(
            "CKM244",
            f"{len(history.heads)} heads are there, and it is not clear which one is to move",
            details=tuple(f"head {history.label(head)}" for head in history.heads),
            fix=f"Name both: ckmigrate rebase --onto {history.heads[0]} {history.heads[1]}.",
        )
    return rest[0] if rest else None


def _conflict(project: Project) -> Conflict | None:
    """The two sides of the lock, where git could not merge it."""
    path = project.lock_path
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return None  # reading it for what it records says what is wrong with it
    return parse_conflicted(text, str(path)) if is_conflicted(text) else None


def require_replayed(rebase: Rebase, known: Mapping[str, Replay]) -> tuple[str, ...]:
    """Remarks on what the snapshots cannot tell; HistoryError CKM332 with every script and line
    that does not work any more behind the other branch, as its file is named now."""
    failures: list[str] = []
    remarks: list[str] = []
    for name, replay in known.items():
        replay.schemas()
        for revision, error in replay.failures.items():
            if _is_open(error, replay.history.script(revision)):
                label = replay.history.label(revision)
                remarks.append(f"not tried from {label} on, on snapshot '{name}': {error.what}")
            else:
                failures += (_on_disk(rebase, line) for line in _told(error, name))
    if failures:
        raise HistoryError(
            "CKM332",
            "the branch does not work behind the other one; nothing was changed",
            details=tuple(dict.fromkeys(failures)),
            why=f"The scripts were written for what was there before {_onto(rebase)}.",
            fix="Correct these lines for the names and shapes of the other branch (its scripts say "
            "what changed: ckmigrate show REV), then run this again.",
        )
    return tuple(remarks)


def _on_disk(rebase: Rebase, text: str) -> str:
    """A text about moved scripts, with the names and lines of their files as they are now."""
    by_name = {each.new.path.name: each for each in rebase.moved}

    def told(found: re.Match[str]) -> str:
        each = by_name[found[1]]
        place = f", line {_line_before(each, int(found[2]))}" if found[2] else ""
        return each.old.path.name + place

    names = "|".join(map(re.escape, by_name))
    return re.sub(rf"(?<![\w.-])({names})(?:, line ([0-9]+))?", told, text) if names else text


def _line_before(each: Moved, line: int) -> int:
    """Where a line of the moved script stands in the script as it is."""
    old, new = each.old.source.splitlines(), each.new.source.splitlines()
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    found = (b.a + line - b.b for b in blocks if b.b < line <= b.b + b.size)
    return next(found, line)


def _onto(rebase: Rebase) -> str:
    return rebase.history.label(rebase.sides.onto)


def _is_open(error: CkmigrateError, script: Script) -> bool:
    return script.has_todo or error.code == _TODO or is_unknown_metadata(error)


def _told(error: CkmigrateError, snapshot: str) -> Sequence[str]:
    lines = [f"{error.where}: {error.what} (snapshot '{snapshot}')"]
    return [*lines, *error.details[:4], *([f"  {error.why}"] if error.why else [])]
