"""Replace or create one checkpoint file: whole, or not at all.

The new file grows under a temporary name beside its target, is forced to stable storage, is read
again by `verify`, and only then takes the name in one rename. Until that rename the target is the
complete old file, after it the complete new one; there is no other moment. `commit` reads as the
list of the steps, and tests/faults fails and kills every one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.failures import explained
from ckmigrate.execute.lock import Lock, locked, real_path
from ckmigrate.execute.preflight import Destination, backup_path, preflight
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.source import changed
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.execute.temporary import Temporary, remove_stale, temporary
from ckmigrate.execute.undo import settle
from ckmigrate.formats.base import FileIdentity, FileImage, StoredFile

__all__ = [
    "Committed",
    "Destination",
    "Fill",
    "InterruptedAfterCommit",
    "backup_path",
    "check_unchanged",
    "commit",
    "force_folder",
    "give_mode",
    "has_name",
    "holding",
    "preflight",
    "told_if_interrupted",
    "umask",
    "write_image",
]

Fill = Callable[[int], Mapping[str, int]]
Verify = Callable[[Path, int], None]


@dataclass(frozen=True, slots=True)
class Committed:
    """A new checkpoint that is complete, verified and on stable storage, and the old one's name."""

    path: Path
    backup: Path | None = None


class InterruptedAfterCommit(KeyboardInterrupt):
    """Ctrl-C arrived while the commit could not be stopped any more: the new checkpoint stands."""

    def __init__(self, committed: Committed) -> None:
        super().__init__(f"interrupted after {committed.path} was written")
        self.committed = committed


def commit(
    destination: Destination,
    image: FileImage,
    fill: Fill,
    *,
    source: Path | None,
    sources: Sequence[StoredFile],
    verify: Verify,
    lock: Lock | None = None,
) -> Committed:
    """Write `image` to `destination` and return when it is on stable storage under its name.

    fill             writes the slots of the image into the open temporary file and returns the
                     CRC-32 of each slot by key ({} where the image does not ask for them)
    source           the checkpoint that `fill` reads
    sources          its files, and what they were when the upgrade was planned; the commit is
                     refused when one changed since
    verify           reads the temporary file (its path, its descriptor) as a stranger would, after
                     it was forced to stable storage; whatever it raises stops the commit
    lock             the lock of the target, where the caller has it already

    On any exception but `InterruptedAfterCommit` and CKM758 the target is untouched and nothing of
    ours is left beside it.

    Raises StorageError CKM750 (input/output), CKM751 (output exists), CKM752 (no space), CKM753
    (source changed), CKM754 (locked), CKM755 (not writable), CKM756 (too large), CKM757 (no
    backup possible), CKM758 (written, but the folder could not be forced to stable storage).
    """
    target = real_path(destination.path)
    with told_if_interrupted() as done, holding(target, lock), explained(destination.path):
        remove_stale(target)
        remove_stale_folders(target)
        check_unchanged(sources)
        old = preflight(destination, image.size, source=source)
        settle(target)
        with temporary(target) as file:
            write_image(file.fd, image, fill)
            verify(file.path, file.fd)
            check_unchanged(sources)
            give_mode(file.fd, old)
            syscalls.fsync(file.fd)
            with _backup(destination.backup if old else None, target, done) as backup:
                committed = Committed(destination.path, backup)
                # Once more: the disk took its time, and a lock does not reach every writer.
                check_unchanged(sources)
                with signals_held():
                    _give_name(file, target, replace=old is not None)
                    done.append(committed)
                    force_folder(target)
        return committed


@contextmanager
def told_if_interrupted() -> Iterator[list[Committed]]:
    """A list for the commit once it is done: a Ctrl-C that comes later says so."""
    done: list[Committed] = []
    try:
        yield done
    except KeyboardInterrupt as interrupt:
        if done:
            raise InterruptedAfterCommit(done[0]) from interrupt
        raise


@contextmanager
def holding(target: Path, lock: Lock | None) -> Iterator[None]:
    """Hold the lock of the target; nothing to do where the caller has it."""
    if lock is not None and lock.path != target:
        raise ValueError(f"the lock is for {lock.path}, not for {target}")
    with nullcontext() if lock else locked(target):
        yield


def check_unchanged(sources: Sequence[StoredFile]) -> None:
    """CKM753 unless every source still is the file that was planned for."""
    for file in sources:
        try:
            found = FileIdentity.of(syscalls.stat(file.path))
        except FileNotFoundError:
            found = None
        if found != file.identity:
            raise changed(file, found)


def write_image(fd: int, image: FileImage, fill: Fill) -> None:
    """Everything that the image describes, forced to stable storage."""
    syscalls.preallocate(fd, image.size)
    checksums = fill(fd)
    _put(fd, image.chunks)
    if image.finish is not None:
        _put(fd, image.finish(checksums))
    # One try only: after a failed fsync the kernel forgets what it could not write.
    syscalls.fsync(fd)
    size = syscalls.stat(fd).st_size
    if size != image.size:
        raise StorageError(
            "CKM750",
            f"the temporary file has {size} bytes instead of {image.size}",
            why="something else wrote to it, or the file system lost a write",
            fix="Run again; when it happens again, check the disk. Nothing was changed.",
        )


def _put(fd: int, chunks: tuple[tuple[int, bytes], ...]) -> None:
    for offset, data in chunks:
        syscalls.pwrite(fd, data, offset=offset)


def give_mode(fd: int, old: os.stat_result | None) -> None:
    """Permissions of the file that is replaced, and its owner where we may; a new file's are what
    any program would give it."""
    if old is None:
        syscalls.chmod(fd, 0o666 & ~umask())
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(OSError):
            syscalls.chown(fd, old.st_uid, old.st_gid)
    syscalls.chmod(fd, S_IMODE(old.st_mode) & 0o777)


def umask() -> int:
    """The umask of this process, without the race of setting it where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _backup(wanted: Path | None, target: Path, done: Sequence[Committed]) -> Iterator[Path | None]:
    """The name under which the old file stays; taken back where nothing was done."""
    if wanted is None:
        yield None
        return
    path, made = _link_backup(wanted, target)
    try:
        yield path
    finally:
        if made and not done:
            with suppress(OSError):
                syscalls.unlink(path)


def _link_backup(wanted: Path, target: Path) -> tuple[Path, bool]:
    """Link the old file under a free name near `wanted`; False where it had that name already."""
    old = syscalls.lstat(target)
    path, number = wanted, 1
    while True:
        taken = syscalls.lstat(path)
        if taken and old and os.path.samestat(taken, old):
            return path, False
        if taken is None and _linked(target, path):
            return path, True
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")


def _linked(target: Path, path: Path) -> bool:
    """Whether the hard link was made; False where its name was taken meanwhile."""
    try:
        syscalls.link(target, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(
            "CKM757",
            f"cannot keep {target.name} as {path.name}: {error.strerror}",
            where=str(path.parent),
            why="a backup is a hard link to the old file, and this file system refused it",
            fix="Write a new file with -o, or go without a backup: --no-backup. "
            "Nothing was changed.",
        ) from error
    return True


def _give_name(file: Temporary, target: Path, *, replace: bool) -> None:
    try:
        if replace:
            syscalls.rename(file.path, target)
        else:
            syscalls.rename_new(file.path, target)
    except OSError as error:
        # A network file system may do the rename, lose the answer and report an error.
        if not has_name(file.fd, target):
            raise _unpublished(error, target) from error


def has_name(fd: int, target: Path) -> bool:
    """Whether what is open under `fd` has the name `target`."""
    with suppress(OSError):
        found = syscalls.lstat(target)
        return found is not None and os.path.samestat(found, os.fstat(fd))
    return False


def _unpublished(error: OSError, target: Path) -> Exception:
    if not isinstance(error, FileExistsError):
        return error
    return StorageError(
        "CKM751",
        f"output exists: {target.name}",
        where=str(target),
        why="it appeared while the upgrade was running, and was left as it is",
        fix="Choose another name, or allow it with --overwrite.",
    )


def force_folder(target: Path) -> None:
    """CKM758 where the new name might not survive a power cut."""
    try:
        syscalls.fsync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            "CKM758",
            f"{target.name} was written, but it is not certain that a power cut leaves it so",
            where=str(target),
            why=f"the folder could not be forced to stable storage: {error.strerror}",
            fix="The new checkpoint is complete and in place. Run `sync`, check the disk, and "
            "verify it: ckmigrate verify.",
        ) from error
