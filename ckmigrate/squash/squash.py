"""Squashing: which scripts, and the proved text that replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import HistoryError, MigrationError
from ckmigrate.identify import Replay
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script
from ckmigrate.squash.compose import draft
from ckmigrate.squash.proof import Proof
from ckmigrate.squash.shorten import shorter

__all__ = ["Squash", "squash", "stretch"]


@dataclass(frozen=True, slots=True)
class Squash:
    """A script that replaces others.

    calls   how many statements upgrade() has, and how many its scripts had
    proved  the schemas on which it was traced beside them: base snapshots, and variants of them
    """

    script: Script
    replaced: tuple[Script, ...]
    text: str
    calls: tuple[int, int]
    proved: tuple[tuple[str, ...], int]


def stretch(history: History, first: str, last: str) -> tuple[Script, ...]:
    """The scripts from `first` to `last`, both included.

    HistoryError CKM318 where they are not two or more in one line, with no other script beside
    them, or where one of them is squashed already.
    """
    found: list[Script] = []
    here: str | None = last
    while here is not None:
        script = history.script(here)
        found.insert(0, script)
        if here == first:
            break
        here = _only_parent(script, first, last, history)
    if found[0].id != first:
        raise _no_stretch(history, first, last, f"{history.label(first)} is not before the other")
    _require_line(found, history)
    return tuple(found)


def _only_parent(script: Script, first: str, last: str, history: History) -> str | None:
    if len(script.parents) > 1:
        why = f"{script.label} joins {len(script.parents)} branches"
        raise _no_stretch(history, first, last, why)
    return script.parents[0] if script.parents else None


def _require_line(found: list[Script], history: History) -> None:
    first, last = found[0].id, found[-1].id
    if len(found) < 2:
        raise HistoryError(
            "CKM318",
            f"{history.label(first)} is one script: there is nothing to squash",
            where=str(history.folder),
            why="a stretch runs from one script to a later one, and both belong to it",
            fix=f"Name a later one as well ({found[0].number or first}:REV), or : for all scripts.",
        )
    for script in found[:-1]:
        others = [c for c in history.children[script.id] if c not in {s.id for s in found}]
        if others:
            why = f"{history.label(others[0])} branches off after {script.label}"
            raise _no_stretch(history, first, last, why)
    ids = {script.id for script in found}
    for other in history.squashed.values():
        if ids & set(other.replaces):
            why = f"{other.path.name} stands for some of them already; prune it first"
            raise _no_stretch(history, first, last, why)


def _no_stretch(history: History, first: str, last: str, why: str) -> HistoryError:
    return HistoryError(
        "CKM318",
        f"{history.label(first)} to {history.label(last)} cannot be squashed",
        where=str(history.folder),
        why=why,
        fix="Name two revisions with one line of scripts between them: FIRST:LAST.",
    )


def squash(
    scripts: tuple[Script, ...],
    replays: Mapping[str, Replay],
    params: Mapping[str, object],
    *,
    message: str,
    path: Path,
) -> Squash:
    """One script in place of several, proved on every base snapshot; nothing is written.

    HistoryError CKM319 for what one script cannot hold; MigrationError CKM514 where there is
    nothing to prove it on, CKM513 where it would do something else.
    """
    whole = draft(scripts, message, path)
    proof = prove(scripts, replays, params, whole.traceable())
    short = shorter(whole, proof)
    proved = (tuple(way.name for way in proof.ways), len(proof.variants))
    before = sum(len(_statements(script)) for script in scripts)
    return Squash(short.script, scripts, short.text, (len(short.pieces), before), proved)


def prove(
    chain: tuple[Script, ...],
    replays: Mapping[str, Replay],
    params: Mapping[str, object],
    script: Script,
) -> Proof:
    """The proof that a script does what a chain does; CKM514 and CKM513 as `squash`."""
    if not replays:
        raise MigrationError(
            "CKM514",
            "there is no base snapshot to prove it on",
            why="a squashed script is written only where it was traced beside its scripts",
            fix="Commit a snapshot: ckmigrate init --from-checkpoint PATH.",
        )
    proof = Proof(chain, replays, params)
    problems = proof.problems(script)
    if problems:
        raise MigrationError(
            "CKM513",
            f"{script.path.name} would not do what its {len(chain)} scripts do",
            where=str(script.path),
            details=problems,
            why="Both were traced on the same names and shapes, and the results differ.",
            fix="Squash a shorter stretch, without the script that is named; nothing was written.",
        )
    return proof


def _statements(script: Script) -> tuple[object, ...]:
    from ckmigrate.squash.parts import take_apart

    return take_apart(script).pieces
