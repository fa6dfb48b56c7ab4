"""Putting the scripts of one branch behind another: which ones, and as what.

    fork ── up1 ── up2                        fork ── up1 ── up2 ── my1' ── my2'
        └── my1 ── my2          becomes

A checkpoint that is tagged `my1` went through it without up1 and up2. If the moved script kept its
id, that tag would be a lie; so it gets a new one and remembers the old one, see `former`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ckmigrate.errors import HistoryError
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.order import children_of, former_ids, ordered, scripts_by_id
from ckmigrate.revisions.rewrite import with_literals
from ckmigrate.revisions.script import Revises, Script, parse_script
from ckmigrate.revisions.squashed import set_aside
from ckmigrate.revisions.syntax import read_bytes

__all__ = ["Moved", "local_scripts", "loose_history", "moved"]


@dataclass(frozen=True, slots=True)
class Moved:
    """A script before and after, and the bytes of the file that it is then."""

    old: Script
    new: Script
    data: bytes


def loose_history(scripts: Iterable[Script], *, folder: Path) -> History:
    """The graph as far as there is one: it may have several bases, and a script that revises a
    former id follows what was made of that. HistoryError CKM311 to CKM314 as `build_history`."""
    plain, beside = set_aside(scripts)
    by_id = scripts_by_id(plain)
    now = former_ids(by_id)

    def today(parent: str) -> str:
        return now[parent].id if parent not in by_id and parent in now else parent

    followed = {one.id: replace(one, revises=_each(one.revises, today)) for one in by_id.values()}
    order = ordered(followed)
    children = MappingProxyType(children_of(order))
    return History(folder, order, MappingProxyType(followed), children, MappingProxyType(beside))


def local_scripts(
    history: History, written: Mapping[str, Script], onto: str, branch: str
) -> tuple[Script, ...]:
    """The scripts of a branch that have to move to come after `onto`, oldest first; none where all
    do already. They are as in `written`, with the parents that their files name.

    HistoryError: CKM333 where one was released, CKM334 where one cannot be moved.
    """
    above = history.ancestors(onto) | {onto}
    line = [s for s in history.order if s.id in history.ancestors(branch) | {branch}]
    line = [script for script in line if script.id not in above]
    misplaced = (i for i, one in enumerate(line) if not _in_place(one, written, onto, line))
    moving = tuple(written[script.id] for script in line[next(misplaced, len(line)) :])
    squashed = {one for squash in history.squashed.values() for one in squash.replaces}
    for script in moving:
        if len(script.parents) > 1:
            _refuse_move(script, "joins branches itself")
        if script.replaces or script.id in squashed:
            _refuse_move(script, "is part of a squash")
    if any(script.release for script in moving):
        _refuse_released(moving, branch)
    return moving


def moved(
    moving: Sequence[Script],
    history: History,
    onto: str,
    new_id: Callable[[], str],
) -> tuple[Moved, ...]:
    """The scripts after `onto`, each behind the one before it, under new ids.

    Their files are read again, because only their literals change. HistoryError CKM331 where those
    cannot be found; CKM301 to CKM307 where a file cannot be read any more.
    """
    names = _file_names(moving, history, onto)
    found: list[Moved] = []
    for script, path in zip(moving, names, strict=True):
        literals = {
            "revision": new_id(),
            "revises": found[-1].new.id if found else onto,
            "formerly": dict([*script.formerly, (script.id, script.revises)]),
        }
        data = with_literals(read_bytes(script.path), script.path, literals)
        found.append(Moved(script, parse_script(data, path), data))
    return tuple(found)


def _each(revises: Revises, change: Callable[[str], str]) -> Revises:
    if isinstance(revises, tuple):
        return tuple(map(change, revises))
    return None if revises is None else change(revises)


def _in_place(
    script: Script, written: Mapping[str, Script], onto: str, line: Sequence[Script]
) -> bool:
    """Whether its parent is where it belongs, under the id that it has today."""
    if not script.parents or written[script.id].revises != script.revises:
        return False
    near = {onto, *(one.id for one in line)}
    return near.issuperset(script.parents)


def _file_names(moving: Sequence[Script], history: History, onto: str) -> list[Path]:
    """The numbers of file names are cosmetic; they go on counting where one would stand before a
    file that now comes first."""
    staying = {script.id for script in history.order} - {script.id for script in moving}
    above = history.ancestors(onto) | {onto}
    highest = max((history.scripts[one].number or 0 for one in staying & above), default=0)
    numbers = [script.number for script in moving]
    counted = [number for number in numbers if number is not None]
    taken = {history.scripts[one].path.name for one in staying}
    if not counted or (min(counted) > highest and counted == sorted(set(counted))):
        return [script.path for script in moving]
    names = []
    for script in moving:
        highest += script.number is not None
        name = script.path.name
        if script.number is not None:
            slug = f"_{script.slug}" if script.slug else ""
            name = f"{highest:04d}{slug}.py"
        names.append(script.path if name in taken else script.path.with_name(name))
    return names


def _refuse_move(script: Script, why: str) -> NoReturn:
    raise HistoryError(
        "CKM334",
        f"the branch cannot be moved: {script.label} {why}",
        where=str(script.path),
        why="a merge and a squash name scripts by their ids, and a rebase gives those others",
        fix="Join the two heads instead: ckmigrate merge.",
    )


def _refuse_released(moving: Sequence[Script], branch: str) -> NoReturn:
    last = max(index for index, script in enumerate(moving) if script.release)
    out = moving[: last + 1]
    raise HistoryError(
        "CKM333",
        f"{len(out)} of the scripts that would move were released",
        details=tuple(
            f"{s.label}" + (f", release {s.release}" if s.release else ", before that release")
            for s in out
        ),
        why="checkpoints that went through them are out there, and a moved script is another "
        "revision",
        fix=f"Move the other branch: ckmigrate rebase --onto {branch}; or join them: "
        "ckmigrate merge.",
    )
