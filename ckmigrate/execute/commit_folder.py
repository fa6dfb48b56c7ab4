"""Replace or create one checkpoint that is a folder: whole, or not at all.

The new folder grows in a staging folder beside its target; every file and folder in it is forced to
stable storage, it is read as a stranger would read it, and only then it takes the name: by one
rename where nothing had it, otherwise by changing places with the old folder in one step
(`exchange_folder`). Where the file system cannot do that, the old folder becomes the new checkpoint
by one rename of its index (`publish_folder`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.build_folder import build_folder
from ckmigrate.execute.commit import (
    Committed,
    Destination,
    check_unchanged,
    give_mode,
    has_name,
    holding,
    preflight,
    told_if_interrupted,
    umask,
)
from ckmigrate.execute.exchange_folder import exchange_folder
from ckmigrate.execute.failures import explained
from ckmigrate.execute.folder_image import FolderImage
from ckmigrate.execute.lock import Lock, real_path
from ckmigrate.execute.publish_folder import publish_folder
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.staged_folder import StagedFolder, Verify
from ckmigrate.execute.staging import Staging, remove_stale_folders, staging
from ckmigrate.execute.temporary import remove_stale
from ckmigrate.formats.base import StoredFile

__all__ = ["commit_folder"]


def commit_folder(
    destination: Destination,
    image: FolderImage,
    *,
    source: Path | None,
    sources: Sequence[StoredFile],
    verify: Verify,
    lock: Lock | None = None,
) -> Committed:
    """Write `image` to `destination` and return when it is on stable storage under its name.

    The arguments are those of `commit`; `verify` reads the staging folder. In place, the old folder
    stays under the name of the backup, or is removed where none is wanted.

    On any exception but `InterruptedAfterCommit` and CKM758 the target is untouched and nothing of
    ours is left beside it. Raises what `commit` raises, and StorageError CKM770 where the file
    system can neither exchange the folders nor is a new index enough.
    """
    target = real_path(destination.path)
    with told_if_interrupted() as done, holding(target, lock), explained(destination.path):
        remove_stale(target)
        remove_stale_folders(target)
        check_unchanged(sources)
        # Two folders must not share a file: whoever saves into the one would change the other.
        links = destination.in_place and destination.backup is None
        size = image.size + (0 if links else image.carried_size)
        old = preflight(destination, size, source=source)
        with staging(target) as stage:
            build_folder(
                stage, image, sources[0].path if destination.in_place else None, links=links
            )
            verify(stage.path)
            check_unchanged(sources)
            _give_folder_mode(stage, old if destination.in_place else None)
            staged = StagedFolder(stage, target, destination, image, sources, verify, done)
            return _replace(staged) if destination.in_place else _create(staged)


def _give_folder_mode(stage: Staging, old: os.stat_result | None) -> None:
    if old is not None:
        give_mode(stage.fd, old)
    else:
        syscalls.chmod(stage.fd, 0o777 & ~umask())
    syscalls.fsync(stage.fd)


def _create(staged: StagedFolder) -> Committed:
    """Take a name that nothing has, or an empty folder has."""
    committed = Committed(staged.destination.path)
    with signals_held():
        try:
            syscalls.rename(staged.stage.path, staged.target)
        except OSError as error:
            if not has_name(staged.stage.fd, staged.target):
                raise _taken(staged.target, error) from error
        staged.done.append(committed)
        staged.force(staged.target.parent)
    return committed


def _taken(target: Path, error: OSError) -> Exception:
    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
        return error
    return StorageError(
        "CKM751",
        f"output exists: {target.name}",
        where=str(target),
        why="it appeared while the upgrade was running, and was left as it is",
        fix="Choose another name.",
    )


def _replace(staged: StagedFolder) -> Committed:
    """Change places with the old folder, or become it from within."""
    with signals_held():
        committed = exchange_folder(staged)
    return committed if committed is not None else publish_folder(staged)
