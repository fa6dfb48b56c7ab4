"""Changing checkpoints in place in tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ckmigrate.errors import CkmigrateError
from ckmigrate.execute.lock import locked
from ckmigrate.execute.undo import settle, undo_newest
from ckmigrate.fast import carry_out_in_place
from ckmigrate.migrate import Outcome
from tests.projects import Zoo

__all__ = ["change", "refusal", "snapshot", "take_back"]


def change(
    zoo: Zoo,
    path: Path,
    direction: Literal["up", "down"] = "up",
    *,
    keep: bool = True,
    **options: object,
) -> Outcome:
    """`upgrade --in-place --fast`, as the command does it."""
    with locked(path) as lock:
        settle(lock.path)
        prepared = zoo.prepare(path, zoo.request(path, **options), direction=direction)
        return carry_out_in_place(prepared, keep=keep, lock=lock)


def refusal(zoo: Zoo, path: Path, **options: object) -> CkmigrateError:
    """The error of a change that is refused; asserts that nothing is different."""
    before = snapshot(zoo.folder)
    try:
        change(zoo, path, **options)  # type: ignore[arg-type]
    except CkmigrateError as error:
        assert snapshot(zoo.folder) == before
        return error
    raise AssertionError("it was not refused")


def take_back(path: Path) -> str:
    """`ckmigrate undo`; the revision where the checkpoint is again."""
    with locked(path) as lock:
        return (settle(lock.path) or undo_newest(lock.path)).revision


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, mode and time of every file below a folder."""
    found: dict[str, tuple[bytes, int, int]] = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(base, name)
            stat = path.stat()
            key = str(path.relative_to(folder))
            found[key] = (path.read_bytes(), stat.st_mode, stat.st_mtime_ns)
    return found
