"""A new folder that is complete, before it has its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Committed, Destination, has_name
from ckmigrate.execute.folder_image import FolderImage
from ckmigrate.execute.staging import Staging
from ckmigrate.formats.base import StoredFile

__all__ = ["StagedFolder", "Verify"]

Verify = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class StagedFolder:
    """A staging folder that is complete and verified, and where it is to go.

    sources  files that were read, which must not have changed meanwhile
    verify   reads the folder as a stranger would
    done     gets what happened as soon as it did: an interruption after that tells of it, and
             nothing is taken back
    """

    stage: Staging
    target: Path
    destination: Destination
    image: FolderImage
    sources: Sequence[StoredFile]
    verify: Verify
    done: list[Committed]

    def force(self, folder: Path) -> None:
        """CKM758 where the new name might not survive a power cut."""
        try:
            syscalls.fsync_folder(folder)
        except OSError as error:
            raise StorageError(
                "CKM758",
                f"{self.target.name} was written, but it is not certain that a power cut leaves "
                "it so",
                where=str(self.target),
                why=f"the folder could not be forced to stable storage: {error.strerror}",
                fix="The new checkpoint is complete and in place. Run `sync`, check the disk, and "
                "verify it: ckmigrate verify.",
            ) from error

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file; CKM770 where the file system cannot."""
        try:
            syscalls.link(source, target)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            raise StorageError(
                "CKM770",
                f"{self.target.name} cannot be replaced in one step",
                where=str(self.target),
                why=f"This file system can neither exchange two folders nor link files: "
                f"{error.strerror}.",
                fix="Write a new folder with -o. Nothing was changed.",
            ) from error

    def take(self, name: str) -> None:
        """Move a file of the staging folder over that of the target."""
        source, target = self.stage.path / name, self.target / name
        fd = syscalls.open_fd(source, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            syscalls.rename(source, target)
        except OSError:
            if not has_name(fd, target):
                raise
        finally:
            syscalls.close(fd)
