"""Make an old folder the new checkpoint from within, where folders cannot change places.

The new shards are linked into the old folder under names that it does not have, one rename of the
index makes them the checkpoint, and then the old shards go. Until then a journal in the staging
folder has links to both, from which the next run settles what a run that was killed left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.backup_folder import backup_folder
from ckmigrate.execute.commit import Committed, check_unchanged
from ckmigrate.execute.files_in import files_in
from ckmigrate.execute.fresh_names import fresh_names
from ckmigrate.execute.new_files import write_like
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.staged_folder import StagedFolder
from ckmigrate.execute.staging import JOURNAL, settle_journal
from ckmigrate.formats.base import StoredFile
from ckmigrate.formats.shard_index import with_shard_names

__all__ = ["publish_folder"]

_KEPT: Final = ".kept"


def publish_folder(staged: StagedFolder) -> Committed:
    """Make the old folder the new checkpoint by one rename of its index.

    Raises StorageError CKM770 where that is not enough, CKM758 where it was done and is not all.
    """
    _require_index_is_enough(staged)
    old = _old_shards(staged)
    fresh = _fresh_shards(staged)
    with backup_folder(staged) as backup:
        committed = Committed(staged.destination.path, backup)
        with _linked_shards(staged, fresh, old), _interim(staged), signals_held():
            check_unchanged(_without_interim(staged))
            staged.take(staged.image.pivot)
            staged.done.append(committed)
            # Before the old shards go: a power cut must not bring back an index of theirs.
            staged.force(staged.target)
            _settle_interim(staged)
        _remove_old_shards(staged)
    return committed


def _fresh_shards(staged: StagedFolder) -> list[str]:
    """The names that the new shards get, none of which the target has."""
    if staged.image.replaced is not None:
        return sorted(staged.image.shards)
    return sorted(_renamed_shards(staged).values()) if staged.image.index else []


@contextmanager
def _interim(staged: StagedFolder) -> Iterator[None]:
    """What is right for both indexes, in the target; taken back where nothing was done."""
    names = [name for name in staged.image.interim if os.path.lexists(staged.target / name)]
    kept = staged.stage.path / _KEPT
    check_unchanged(staged.sources)
    if staged.image.interim:
        syscalls.mkdir(kept)
        for name in names:
            staged.link(staged.target / name, kept / name)
    try:
        for name, raw in staged.image.interim.items():
            draft = kept / f"{name}.new"
            write_like(draft, raw, staged.stage.path / name)
            syscalls.rename(draft, staged.target / name)
            syscalls.fsync_folder(staged.target)
        yield
    finally:
        for name in staged.image.interim if not staged.done else ():
            with suppress(OSError):
                if name in names:
                    syscalls.rename(kept / name, staged.target / name)
                else:
                    syscalls.unlink(staged.target / name)


def _without_interim(staged: StagedFolder) -> list[StoredFile]:
    return [file for file in staged.sources if file.path.name not in staged.image.interim]


def _settle_interim(staged: StagedFolder) -> None:
    """The files as they are to be; what stands there meanwhile is right as well."""
    for name in staged.image.interim:
        with suppress(OSError):
            staged.take(name)
    if staged.image.interim:
        staged.force(staged.target)


def _remove_old_shards(staged: StagedFolder) -> None:
    try:
        settle_journal(staged.target, staged.stage.path / JOURNAL)
    except OSError as error:
        raise StorageError(
            "CKM758",
            f"{staged.target.name} was written, but some of its old shards are still in it",
            where=str(staged.target),
            why=f"they could not be removed: {error.strerror or error}",
            fix="The new checkpoint is complete and in place; the next run removes them.",
        ) from error


def _require_index_is_enough(staged: StagedFolder) -> None:
    """CKM770 where more than shards and their index would have to change at once."""
    pivot, carried = staged.image.pivot, staged.image.carried or {}
    old = (*_old_shards(staged), *staged.image.interim)
    own = (*staged.image.shards, *staged.image.interim, pivot)
    here = {name for name in files_in(staged.target) if name not in (*old, pivot)}
    new = {name for name in staged.image.files if name not in own}
    if not new and here == set(carried) and os.path.lexists(staged.target / pivot):
        return
    names = sorted(new | (here ^ set(carried))) or [pivot]
    raise StorageError(
        "CKM770",
        f"{staged.target.name} cannot be replaced in one step",
        where=str(staged.target),
        details=tuple(names[:10]),
        why="This file system cannot exchange two folders, and more than the weights changes.",
        fix="Write a new folder with -o. Nothing was changed.",
    )


def _old_shards(staged: StagedFolder) -> list[str]:
    if staged.image.replaced is not None:
        return sorted(staged.image.replaced)
    if staged.image.index is None:
        return [staged.image.pivot]
    return sorted(_index_names(staged.target / staged.image.pivot))


def _renamed_shards(staged: StagedFolder) -> dict[str, str]:
    """Give the shards in the staging folder names that the target does not have, and verify it
    once more; new name by old name."""
    assert staged.image.index is not None
    names = fresh_names(staged.image.shards, set(os.listdir(staged.target)))
    for name, fresh in names.items():
        syscalls.rename(staged.stage.path / name, staged.stage.path / fresh)
    index = staged.stage.path / staged.image.index
    raw = with_shard_names(index.read_bytes(), names)
    draft = index.with_name(f"{index.name}.new")
    write_like(draft, raw, index)
    syscalls.rename(draft, index)
    syscalls.fsync_folder(staged.stage.path)
    staged.verify(staged.stage.path)
    return names


@contextmanager
def _linked_shards(
    staged: StagedFolder, fresh: Sequence[str], old: Sequence[str]
) -> Iterator[None]:
    """The new shards in the target, beside the old ones; taken back where nothing was done.

    A journal of links tells the next run what to remove, should this one be killed."""
    if not fresh:
        yield
        return
    journal = staged.stage.path / JOURNAL
    syscalls.mkdir(journal)
    for folder, names in ((staged.stage.path, fresh), (staged.target, old)):
        for name in names:
            staged.link(folder / name, journal / name)
    syscalls.fsync_folder(journal)
    syscalls.fsync_folder(staged.stage.path)
    made: list[Path] = []
    try:
        for name in fresh:
            staged.link(staged.stage.path / name, staged.target / name)
            made.append(staged.target / name)
        syscalls.fsync_folder(staged.target)
        yield
    finally:
        for path in made if not staged.done else ():
            with suppress(OSError):
                syscalls.unlink(path)


def _index_names(index: Path) -> set[str]:
    """The shards that an index names; none where there is no index."""
    import json

    with suppress(OSError, ValueError, KeyError):
        return set(json.loads(index.read_bytes())["weight_map"].values())
    return set()
