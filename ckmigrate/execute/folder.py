"""Replace or create one checkpoint that is a folder: whole, or not at all.

The new folder grows in a staging folder beside its target; every file and folder in it is forced to
stable storage, it is read as a stranger would read it, and only then it takes the name: by one
rename where nothing had it, otherwise by changing places with the old folder in one step. Where the
file system cannot do that, the new shards are linked into the old folder under names that it does
not have, one rename of the index makes them the checkpoint, and then the old shards go.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IMODE
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import (
    Committed,
    Destination,
    Fill,
    check_unchanged,
    give_mode,
    has_name,
    holding,
    preflight,
    told_if_interrupted,
    umask,
    write_image,
)
from ckmigrate.execute.failures import explained
from ckmigrate.execute.lock import Lock, real_path
from ckmigrate.execute.signals import signals_held
from ckmigrate.execute.staging import (
    JOURNAL,
    Staging,
    free_name,
    remove_stale_folders,
    remove_tree,
    settle_journal,
    staging,
    swap_path,
)
from ckmigrate.execute.temporary import remove_stale
from ckmigrate.formats.base import FileImage, StoredFile
from ckmigrate.formats.shard_index import with_shard_names

__all__ = ["FolderImage", "NewFile", "commit_folder"]

_KEPT: Final = ".kept"
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_SHARD: Final = re.compile(r"(?P<stem>.+?)(-v[0-9]+)?(?P<rest>(-[0-9]{5,}-of-[0-9]{5,})?\.[^.]+)")

Verify = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written; `fill` writes the slots of the image into the open file."""

    image: FileImage
    fill: Fill


@dataclass(frozen=True, slots=True)
class FolderImage:
    """A folder to be written, as data.

    files    what is written anew, by relative name
    shards   those of them that hold tensors
    index    the one that names the shards, if there is one
    carried  files that come along, by relative name
    empty    folders without files
    replaced files of the old folder that the new one does without; None: what its index names. Then
             the shards have names that the old folder does not have
    interim  what files may say, by name, while the old index still counts and when the new one does
    """

    files: Mapping[str, NewFile]
    shards: tuple[str, ...]
    index: str | None = None
    carried: Mapping[str, Path] | None = None
    empty: tuple[str, ...] = ()
    replaced: tuple[str, ...] | None = None
    interim: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(file.image.size for file in self.files.values())

    @property
    def pivot(self) -> str:
        """The file that makes the others the checkpoint."""
        return self.index or self.shards[0]


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
        size = image.size + (0 if links else _carried_size(image))
        old = preflight(destination, size, source=source)
        with staging(target) as stage:
            _build(stage, image, sources[0].path if destination.in_place else None, links=links)
            verify(stage.path)
            check_unchanged(sources)
            _give_folder_mode(stage, old if destination.in_place else None)
            run = _Run(stage, target, destination, image, sources, verify, done)
            return run.replace() if destination.in_place else run.create()


def _carried_size(image: FolderImage) -> int:
    return sum(os.path.getsize(path) for path in (image.carried or {}).values())


# --- building ---------------------------------------------------------------------------------


def _build(stage: Staging, image: FolderImage, old: Path | None, *, links: bool) -> None:
    """Everything that the image describes, forced to stable storage; permissions are those of
    the folder that the file `old` is in. With `links`, what comes along is linked if possible."""
    folders = {stage.path}
    carried = image.carried or {}
    for name in (*carried, *(f"{folder}/" for folder in image.empty)):
        folders |= _make_folders(stage.path, name)
    for name, file in image.files.items():
        with _created(stage.path / name) as fd:
            write_image(fd, file.image, file.fill)
            give_mode(fd, _permissions(name, old))
            syscalls.fsync(fd)
    for name, path in carried.items():
        _carry(path, stage.path / name, link=links)
    for folder in sorted(folders, reverse=True):
        syscalls.fsync_folder(folder)


def _permissions(name: str, old: Path | None) -> os.stat_result | None:
    """What the file of this name has in the old folder, or else its first shard."""
    for path in (old.with_name(name), old) if old else ():
        with suppress(FileNotFoundError):
            return syscalls.stat(path)
    return None


def _make_folders(root: Path, name: str) -> set[Path]:
    made: set[Path] = set()
    folder = root
    for part in name.split("/")[:-1]:
        folder /= part
        made.add(folder)
        if syscalls.lstat(folder) is None:
            syscalls.mkdir(folder, mode=0o777)
    return made


@contextmanager
def _created(path: Path) -> Iterator[int]:
    fd = syscalls.open_fd(path, _CREATE)
    try:
        yield fd
    finally:
        syscalls.close(fd)


def _carry(source: Path, target: Path, *, link: bool) -> None:
    """A copy of a file, which shares its blocks where the file system can do that, or a link."""
    path = real_path(source)
    fd = syscalls.open_fd(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = syscalls.stat(fd)
        if link and _linked(path, target):
            syscalls.fsync(fd)
            return
        with _created(target) as copy:
            syscalls.copy_range(fd, copy, source_offset=0, target_offset=0, nbytes=found.st_size)
            syscalls.chmod(copy, S_IMODE(found.st_mode) & 0o777)
            syscalls.fsync(copy)
    finally:
        syscalls.close(fd)


def _linked(path: Path, target: Path) -> bool:
    with suppress(OSError):
        syscalls.link(path, target)
        return True
    return False


def _give_folder_mode(stage: Staging, old: os.stat_result | None) -> None:
    if old is not None:
        give_mode(stage.fd, old)
    else:
        syscalls.chmod(stage.fd, 0o777 & ~umask())
    syscalls.fsync(stage.fd)


# --- giving the name --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """A staging folder that is complete and verified, and where it is to go."""

    stage: Staging
    target: Path
    destination: Destination
    image: FolderImage
    sources: Sequence[StoredFile]
    verify: Verify
    done: list[Committed]

    def create(self) -> Committed:
        """Take a name that nothing has, or an empty folder has."""
        committed = Committed(self.destination.path)
        with signals_held():
            try:
                syscalls.rename(self.stage.path, self.target)
            except OSError as error:
                if not has_name(self.stage.fd, self.target):
                    raise self._taken(error) from error
            self.done.append(committed)
            self._force(self.target.parent)
        return committed

    def _taken(self, error: OSError) -> Exception:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return error
        return StorageError(
            "CKM751",
            f"output exists: {self.target.name}",
            where=str(self.target),
            why="it appeared while the upgrade was running, and was left as it is",
            fix="Choose another name.",
        )

    def replace(self) -> Committed:
        """Change places with the old folder, or become it from within."""
        with signals_held():
            committed = self._exchange()
        return committed if committed is not None else self._publish()

    def _exchange(self) -> Committed | None:
        """None where the file system cannot."""
        self._require_nothing_new()
        wanted, path = self.destination.backup, self.stage.path
        if wanted is not None:
            path = swap_path(self.stage, wanted)
            syscalls.rename(self.stage.path, path)
        try:
            exchanged = syscalls.exchange(path, self.target)
        except OSError:
            if not (exchanged := has_name(self.stage.fd, self.target)):
                self._back(path)
                raise
        if not exchanged:
            self._back(path)
            return None
        committed = Committed(self.destination.path, wanted)
        self.done.append(committed)
        if wanted is not None:
            committed = self._keep_old(path, wanted)
            self.done[:] = [committed]
        self._force(self.target.parent)
        return committed

    def _require_nothing_new(self) -> None:
        """CKM753 where the old folder has a file that the new one knows nothing of."""
        root = self.sources[0].path.parent
        known = {str(file.path.relative_to(root)) for file in self.sources}
        for name in _files_in(self.target):
            if name not in known and (self.target / name).is_file():
                raise StorageError(
                    "CKM753",
                    f"{name} appeared in {self.target.name} while it was upgraded",
                    where=str(self.target / name),
                    why="The new folder would be without it.",
                    fix="Run again when nothing else writes to the folder. Nothing was changed.",
                )

    def _back(self, path: Path) -> None:
        """To the name under which the end of the block removes it."""
        if path != self.stage.path:
            with suppress(OSError):
                syscalls.rename(path, self.stage.path)
        if path != self.stage.path and os.path.lexists(path):
            with suppress(OSError):
                remove_tree(path)

    def _keep_old(self, path: Path, wanted: Path) -> Committed:
        try:
            backup = free_name(wanted)
            syscalls.rename(path, backup)
        except OSError as error:
            raise StorageError(
                "CKM758",
                f"{self.target.name} was written, but its old version has a temporary name",
                where=str(self.target),
                why=f"it should be {wanted.name}, and is {path.name}: {error.strerror}",
                fix="Both are complete. Rename the old one, or run again: it gets its name then.",
            ) from error
        return Committed(self.destination.path, backup)

    def _force(self, folder: Path) -> None:
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

    # --- from within --------------------------------------------------------------------------

    def _publish(self) -> Committed:
        """Make the old folder the new checkpoint by one rename of its index."""
        self._require_index_is_enough()
        old = self._old_shards()
        fresh = self._fresh_shards()
        with self._backup() as backup:
            committed = Committed(self.destination.path, backup)
            with self._linked_shards(fresh, old), self._interim(), signals_held():
                check_unchanged(self._without_interim())
                self._take(self.image.pivot)
                self.done.append(committed)
                # Before the old shards go: a power cut must not bring back an index of theirs.
                self._force(self.target)
                self._settle_interim()
            self._remove_old_shards()
        return committed

    def _fresh_shards(self) -> list[str]:
        """The names that the new shards get, none of which the target has."""
        if self.image.replaced is not None:
            return sorted(self.image.shards)
        return sorted(self._renamed_shards().values()) if self.image.index else []

    @contextmanager
    def _interim(self) -> Iterator[None]:
        """What is right for both indexes, in the target; taken back where nothing was done."""
        names = [name for name in self.image.interim if os.path.lexists(self.target / name)]
        kept = self.stage.path / _KEPT
        check_unchanged(self.sources)
        if self.image.interim:
            syscalls.mkdir(kept)
            for name in names:
                self._link(self.target / name, kept / name)
        try:
            for name, raw in self.image.interim.items():
                draft = kept / f"{name}.new"
                with _created(draft) as fd:
                    syscalls.pwrite(fd, raw, offset=0)
                    syscalls.chmod(fd, S_IMODE(syscalls.stat(self.stage.path / name).st_mode))
                    syscalls.fsync(fd)
                syscalls.rename(draft, self.target / name)
                syscalls.fsync_folder(self.target)
            yield
        finally:
            for name in self.image.interim if not self.done else ():
                with suppress(OSError):
                    if name in names:
                        syscalls.rename(kept / name, self.target / name)
                    else:
                        syscalls.unlink(self.target / name)

    def _without_interim(self) -> list[StoredFile]:
        return [file for file in self.sources if file.path.name not in self.image.interim]

    def _settle_interim(self) -> None:
        """The files as they are to be; what stands there meanwhile is right as well."""
        for name in self.image.interim:
            with suppress(OSError):
                self._take(name)
        if self.image.interim:
            self._force(self.target)

    def _remove_old_shards(self) -> None:
        try:
            settle_journal(self.target, self.stage.path / JOURNAL)
        except OSError as error:
            raise StorageError(
                "CKM758",
                f"{self.target.name} was written, but some of its old shards are still in it",
                where=str(self.target),
                why=f"they could not be removed: {error.strerror or error}",
                fix="The new checkpoint is complete and in place; the next run removes them.",
            ) from error

    def _require_index_is_enough(self) -> None:
        """CKM770 where more than shards and their index would have to change at once."""
        pivot, carried = self.image.pivot, self.image.carried or {}
        old = (*self._old_shards(), *self.image.interim)
        own = (*self.image.shards, *self.image.interim, pivot)
        here = {name for name in _files_in(self.target) if name not in (*old, pivot)}
        new = {name for name in self.image.files if name not in own}
        if not new and here == set(carried) and os.path.lexists(self.target / pivot):
            return
        names = sorted(new | (here ^ set(carried))) or [pivot]
        raise StorageError(
            "CKM770",
            f"{self.target.name} cannot be replaced in one step",
            where=str(self.target),
            details=tuple(names[:10]),
            why="This file system cannot exchange two folders, and more than the weights changes.",
            fix="Write a new folder with -o. Nothing was changed.",
        )

    def _old_shards(self) -> list[str]:
        if self.image.replaced is not None:
            return sorted(self.image.replaced)
        if self.image.index is None:
            return [self.image.pivot]
        return sorted(_index_names(self.target / self.image.pivot))

    def _renamed_shards(self) -> dict[str, str]:
        """Give the shards in the staging folder names that the target does not have, and verify it
        once more; new name by old name."""
        assert self.image.index is not None
        names = _fresh_names(self.image.shards, set(os.listdir(self.target)))
        for name, fresh in names.items():
            syscalls.rename(self.stage.path / name, self.stage.path / fresh)
        index = self.stage.path / self.image.index
        raw = with_shard_names(index.read_bytes(), names)
        draft = index.with_name(f"{index.name}.new")
        with _created(draft) as fd:
            syscalls.pwrite(fd, raw, offset=0)
            syscalls.chmod(fd, S_IMODE(syscalls.stat(index).st_mode))
            syscalls.fsync(fd)
        syscalls.rename(draft, index)
        syscalls.fsync_folder(self.stage.path)
        self.verify(self.stage.path)
        return names

    @contextmanager
    def _linked_shards(self, fresh: Sequence[str], old: Sequence[str]) -> Iterator[None]:
        """The new shards in the target, beside the old ones; taken back where nothing was done.

        A journal of links tells the next run what to remove, should this one be killed."""
        if not fresh:
            yield
            return
        journal = self.stage.path / JOURNAL
        syscalls.mkdir(journal)
        for folder, names in ((self.stage.path, fresh), (self.target, old)):
            for name in names:
                self._link(folder / name, journal / name)
        syscalls.fsync_folder(journal)
        syscalls.fsync_folder(self.stage.path)
        made: list[Path] = []
        try:
            for name in fresh:
                self._link(self.stage.path / name, self.target / name)
                made.append(self.target / name)
            syscalls.fsync_folder(self.target)
            yield
        finally:
            for path in made if not self.done else ():
                with suppress(OSError):
                    syscalls.unlink(path)

    def _link(self, source: Path, target: Path) -> None:
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

    def _take(self, name: str) -> None:
        source, target = self.stage.path / name, self.target / name
        fd = syscalls.open_fd(source, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            syscalls.rename(source, target)
        except OSError:
            if not has_name(fd, target):
                raise
        finally:
            syscalls.close(fd)

    @contextmanager
    def _backup(self) -> Iterator[Path | None]:
        """A second folder of the old files: links to those that go, copies of those that stay;
        taken back where nothing was done."""
        if self.destination.backup is None:
            yield None
            return
        backup = free_name(self.destination.backup)
        with staging(self.target) as copy:
            for name in _files_in(self.target):
                _make_folders(copy.path, name)
                if name in (self.image.carried or {}):
                    _carry(self.target / name, copy.path / name, link=False)
                else:
                    self._link(self.target / name, copy.path / name)
            for name in _folders_in(self.target):
                _make_folders(copy.path, f"{name}/")
            give_mode(copy.fd, syscalls.stat(self.target))
            syscalls.fsync_folder(copy.path)
            syscalls.rename(copy.path, backup)
        try:
            yield backup
        finally:
            if not self.done:
                with suppress(OSError):
                    remove_tree(backup)


def _index_names(index: Path) -> set[str]:
    """The shards that an index names; none where there is no index."""
    import json

    with suppress(OSError, ValueError, KeyError):
        return set(json.loads(index.read_bytes())["weight_map"].values())
    return set()


def _files_in(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(base, name), folder)
        for base, _, names in os.walk(folder)
        for name in sorted(names)
    ]


def _folders_in(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(base, name), folder)
        for base, names, _ in os.walk(folder)
        for name in sorted(names)
    ]


def _fresh_names(shards: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Names of one generation, `model-v2-00001-of-00003.safetensors`, that nothing has."""
    generation = 2
    while True:
        fresh = {name: _of_generation(name, generation) for name in shards}
        if not taken & set(fresh.values()):
            return fresh
        generation += 1


def _of_generation(name: str, generation: int) -> str:
    match = _SHARD.fullmatch(name)
    return f"{match['stem']}-v{generation}{match['rest']}" if match else f"{name}-v{generation}"
