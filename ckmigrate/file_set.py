"""Changing several files of a project at once: all of them, or none.

While they change, a journal lies in the folder of the scripts and names them. Whoever reads the
scripts refuses as long as it is there, because some may be new and some old; the next command takes
back what a killed run has left. When the change is done the journal goes, in one step.

    0004_mine.py                  a file that changes
    .0004_mine.py.123.new.tmp     what it becomes, by process 123
    .0004_mine.py.123.old.tmp     what it was
    .ckmigrate-journal            which files change, and the sums of what they become
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.signals import signals_held
from ckmigrate.journal import JOURNAL, being_changed
from ckmigrate.text_file import is_running

__all__ = ["replace_files", "settle_files"]

_FORMAT: Final = 1
_LARGEST: Final = 1 << 24
_STAGED: Final = re.compile(r"\..+\.([0-9]+)(?:\.new|\.old)?\.tmp")
_AGAIN: Final = "Run the command again when the disk can be written: the change goes back first."
_BY_HAND: Final = (
    "Look at the files (git status, git diff), put them right, and remove the journal."
)
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Change:
    """One file that changes.

    path   a real path
    after  SHA-256 of what it becomes; None where it goes
    is_new whether there was no such file
    owner  the process that changes it
    """

    path: Path
    after: str | None
    is_new: bool
    owner: int

    @property
    def new(self) -> Path:
        return _staged_path(self.path, self.owner, "new")

    @property
    def old(self) -> Path:
        return _staged_path(self.path, self.owner, "old")


def replace_files(files: Mapping[Path, bytes | None], *, folder: Path) -> None:
    """Give every file its new content, in order; None removes it.

    folder  that of the scripts, where the journal lies. A file that a link leads out of it is not
            in the journal: after a kill it is whole, but perhaps new.

    An error undoes what was done and is a StorageError CKM792; CKM795 where that fails too, and
    then the next command does it. HistoryError CKM338 where another run is changing the scripts.
    """
    journal = Path(os.path.realpath(folder)) / JOURNAL
    if os.path.lexists(journal):
        raise being_changed(journal)
    wanted = {Path(os.path.realpath(path)): data for path, data in files.items()}
    with _explained():
        changes = [change for path, data in wanted.items() if (change := _change(path, data))]
        if changes:
            _replace(changes, wanted, journal)


def _replace(
    changes: Sequence[_Change], wanted: Mapping[Path, bytes | None], journal: Path
) -> None:
    _remove_stale({journal.parent, *(change.path.parent for change in changes)})
    with signals_held():
        fd = _prepare(changes, wanted, journal)
        try:
            _carry_out(changes, journal)
        finally:
            syscalls.close(fd)


def _change(path: Path, data: bytes | None) -> _Change | None:
    """What is to be done about a file; None where it is so already."""
    after = None if data is None else _sum(data)
    now = _sum_of(path)
    return None if now == after else _Change(path, after, now is None, os.getpid())


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sum_of(path: Path) -> str | None:
    """None where there is no such file."""
    try:
        return _sum(path.read_bytes())
    except FileNotFoundError:
        return None


# --- before anything changes --------------------------------------------------------------------


def _prepare(changes: Sequence[_Change], wanted: Mapping[Path, bytes | None], journal: Path) -> int:
    """Everything that is needed stands on the disk; the open journal, which is locked."""
    try:
        for change in changes:
            _stage(change, wanted[change.path])
        _force(change.path.parent for change in changes)
        return _begin(changes, journal)
    except BaseException:
        _remove_staged(changes)
        raise


def _stage(change: _Change, data: bytes | None) -> None:
    """The new content and the old one in files beside it, with its permissions."""
    change.path.parent.mkdir(parents=True, exist_ok=True)
    if data is not None:
        _write(change.new, data, like=change.path)
    if not change.is_new:
        _write(change.old, change.path.read_bytes(), like=change.path)


def _write(path: Path, data: bytes, *, like: Path) -> None:
    found = syscalls.lstat(like)
    path.unlink(missing_ok=True)
    fd = syscalls.open_fd(path, _CREATE, mode=0o666)
    try:
        syscalls.pwrite(fd, data, offset=0)
        if found is not None:
            syscalls.chmod(fd, stat.S_IMODE(found.st_mode) & 0o777)
        syscalls.fsync(fd)
    finally:
        syscalls.close(fd)


def _begin(changes: Sequence[_Change], journal: Path) -> int:
    """The journal, whole and locked from the moment that it has its name."""
    temporary = _staged_path(journal, os.getpid(), "new")
    temporary.unlink(missing_ok=True)
    fd = syscalls.open_fd(temporary, _CREATE, mode=0o600)
    try:
        _is_free(fd)
        syscalls.pwrite(fd, _encoded(changes, journal.parent), offset=0)
        syscalls.fsync(fd)
        _give_name(temporary, journal)
        syscalls.fsync_folder(journal.parent)
    except BaseException:
        if _is_at(journal, fd):
            journal.unlink()
        syscalls.close(fd)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return fd


def _give_name(temporary: Path, journal: Path) -> None:
    try:
        syscalls.rename_new(temporary, journal)
    except FileExistsError:
        raise being_changed(journal) from None


def _is_at(path: Path, fd: int) -> bool:
    """Whether what is open has this name."""
    with suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    return False


def _is_free(fd: int) -> bool:
    """Take the lock of a journal; False where a living run has it. Some network file systems have
    no locks, and there every journal is taken for that of a dead run."""
    try:
        return syscalls.lock(fd)
    except OSError:
        return True


# --- the change ---------------------------------------------------------------------------------


def _carry_out(changes: Sequence[_Change], journal: Path) -> None:
    try:
        for change in changes:
            if change.after is None:
                syscalls.unlink(change.path)
            else:
                syscalls.rename(change.new, change.path)
        _force(change.path.parent for change in changes)
        syscalls.unlink(journal)
    except BaseException:
        with _settling(journal):
            _put_back(changes, journal)
        raise
    try:
        # If a power cut brings the journal back, the next command takes the change back.
        with suppress(OSError):
            syscalls.fsync_folder(journal.parent)
    finally:
        _remove_staged(changes)


def _put_back(changes: Sequence[_Change], journal: Path) -> None:
    """Every file as it was, then no journal. May be cut off, and done again."""
    for change in reversed(changes):
        # Another content: not changed yet, put back already, or edited since.
        if _sum_of(change.path) != change.after:
            continue
        if change.is_new:
            syscalls.unlink(change.path)
        else:
            syscalls.rename(change.old, change.path)
    _force(change.path.parent for change in changes)
    if os.path.lexists(journal):
        syscalls.unlink(journal)
        syscalls.fsync_folder(journal.parent)
    _remove_staged(changes)


def _force(folders: Iterable[Path]) -> None:
    for folder in dict.fromkeys(folders):
        syscalls.fsync_folder(folder)


# --- after a run that was killed ----------------------------------------------------------------


def settle_files(folder: Path) -> tuple[Path, ...]:
    """Take back the change of a run that was killed; the files that were to change, none where no
    such run left a journal. A change that a living run is at is left alone.

    StorageError CKM795 where that fails; it may be tried again.
    """
    journal = Path(os.path.realpath(folder)) / JOURNAL
    with _settling(journal):
        try:
            fd = syscalls.open_fd(journal, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return ()
        try:
            # Another command may have settled it between the opening and the lock.
            if not _is_free(fd) or not os.fstat(fd).st_nlink:
                return ()
            changes = _decoded(fd, journal)
            with signals_held():
                _put_back(changes, journal)
        finally:
            syscalls.close(fd)
    return tuple(change.path for change in changes)


@contextmanager
def _settling(journal: Path) -> Iterator[None]:
    """CKM795 where the system fails; the journal stays, so that it can be tried again."""
    try:
        yield
    except OSError as error:
        lost = isinstance(error, FileNotFoundError)
        why = f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
        raise _unsettled(journal, why, _BY_HAND if lost else _AGAIN) from error


def _unsettled(journal: Path, why: str, fix: str) -> StorageError:
    what = "a change of the scripts that was cut off cannot be taken back"
    return StorageError("CKM795", what, where=str(journal), why=why, fix=fix)


def _encoded(changes: Iterable[_Change], folder: Path) -> bytes:
    files = [
        [change.path.relative_to(folder).as_posix(), change.after, change.is_new]
        for change in changes
        if change.path.is_relative_to(folder)
    ]
    return json.dumps({"format": _FORMAT, "owner": os.getpid(), "files": files}).encode()


def _decoded(fd: int, journal: Path) -> list[_Change]:
    """The changes of a journal, of files in its folder only: it may have come with a clone."""
    try:
        data = json.loads(syscalls.pread(fd, min(os.fstat(fd).st_size, _LARGEST), offset=0))
        if data["format"] != _FORMAT or type(data["owner"]) is not int:
            raise ValueError("it is of another format")
        return [
            _Change(_inside(journal.parent, name), after, bool(is_new), data["owner"])
            for name, after, is_new in data["files"]
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        why = f"its content is not that of a journal ({error})"
        raise _unsettled(journal, why, _BY_HAND) from None


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    steps = PurePosixPath(name).parts
    if not steps or ".." in steps or name.startswith("/") or Path(os.path.realpath(path)) != path:
        raise ValueError(f"{name!r:.80} is no file of the folder")
    return path


# --- leftovers ----------------------------------------------------------------------------------


def _staged_path(path: Path, owner: int, kind: str) -> Path:
    return path.with_name(f".{path.name}.{owner}.{kind}.tmp")


def _remove_staged(changes: Iterable[_Change]) -> None:
    for change in changes:
        for path in (change.new, change.old):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _remove_stale(folders: Iterable[Path]) -> None:
    """What runs that were killed before they had a journal, or after, left behind."""
    for folder in folders:
        with suppress(OSError):
            for path in folder.iterdir():
                found = _STAGED.fullmatch(path.name)
                if found and not is_running(int(found[1])):
                    path.unlink(missing_ok=True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> StorageError:
    name = Path(error.filename).name if isinstance(error.filename, str | Path) else "a file"
    return StorageError(
        "CKM792",
        f"cannot write {name}: {error.strerror or error}",
        where=None if error.filename is None else str(error.filename),
        why="Every file of the project is as it was.",
        fix="Check the folder, its permissions and the space on its disk.",
    )
