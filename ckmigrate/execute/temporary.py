"""The temporary file that becomes the new checkpoint.

It lies beside its target, so that a rename can publish it, and it is locked while its run is alive.
A temporary that nobody locks belongs to a run that was killed; the next run removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from ckmigrate.execute import syscalls
from ckmigrate.execute.lock import already_running

__all__ = [
    "NAME",
    "Temporary",
    "is_dead",
    "is_temporary",
    "key_of",
    "names_in",
    "new_name",
    "remove_stale",
    "temporary",
]

NAME: Final = re.compile(
    r"\.ckmigrate-(?P<target>[0-9a-f]{12})-(?P<pid>\d+)-(?P<start>\d+)-(?P<boot>[0-9a-f]{8})"
    r"-[0-9a-f]{8}\.tmp"
)
_NO_FOLLOW: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Temporary:
    """An open temporary file, under the name that it had when it was made."""

    path: Path
    fd: int


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a temporary of ckmigrate."""
    return NAME.fullmatch(name) is not None


@contextmanager
def temporary(target: Path) -> Iterator[Temporary]:
    """A new, empty, locked file beside `target`, readable by its owner only.

    At the end of the block nothing has its temporary name; the target's name, if it was given that,
    stays.
    """
    file = _create(target)
    try:
        yield file
    finally:
        # Also after a success: where a link gave the name, the first removal may have failed.
        with suppress(OSError):
            syscalls.unlink(file.path)
        syscalls.close(file.fd)


def _create(target: Path) -> Temporary:
    """Between its making and its lock a run for a neighbour may take the file for a dead one's and
    remove it; then another is made."""
    while True:
        file, is_locked = _try_to_create(target)
        if is_locked and os.fstat(file.fd).st_nlink:
            return file
        with suppress(OSError):
            syscalls.unlink(file.path)
        syscalls.close(file.fd)


def _try_to_create(target: Path) -> tuple[Temporary, bool]:
    """A new file, and whether its lock is ours, or cannot be had on this file system."""
    path = target.with_name(new_name(target))
    fd = syscalls.open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    is_locked = True
    try:
        is_locked = syscalls.lock(fd)
    except OSError:
        pass  # Some network file systems cannot lock; the name then tells who is alive.
    except BaseException:
        with suppress(OSError):
            syscalls.unlink(path)
        syscalls.close(fd)
        raise
    return Temporary(path, fd), is_locked


def new_name(target: Path) -> str:
    """A name for something temporary beside `target`, which says what it is for and who made it."""
    return (
        f".ckmigrate-{key_of(target)}-{os.getpid()}-{_start(os.getpid())}-{_boot()}"
        f"-{os.urandom(4).hex()}.tmp"
    )


def remove_stale(target: Path) -> None:
    """Remove the temporaries of dead runs from the folder of `target`.

    Raises StorageError CKM754 where a living run is writing this very target: the lock of `lock.py`
    does not reach another user, another container or another host; this one often does.
    """
    for name in sorted(names_in(target.parent)):
        match = NAME.fullmatch(name)
        if match is None or _remove_if_dead(target.parent / name, match):
            continue
        if match["target"] == key_of(target):
            raise already_running(target, match["pid"])


def names_in(folder: Path) -> list[str]:
    """Everything in a folder; nothing where it cannot be listed."""
    with suppress(OSError):
        return [entry.name for entry in os.scandir(folder)]
    return []


def _remove_if_dead(path: Path, match: re.Match[str]) -> bool:
    """False where the run that made this file lives; what cannot be opened is left alone."""
    try:
        fd = syscalls.open_fd(path, _NO_FOLLOW)
    except OSError:
        return True
    try:
        if not S_ISREG(os.fstat(fd).st_mode):
            return True
        if not is_dead(fd, match):
            return False
        syscalls.unlink(path)
    except OSError:
        pass  # Not ours to remove, or gone already: it harms nobody.
    finally:
        syscalls.close(fd)
    return True


def is_dead(fd: int, match: re.Match[str]) -> bool:
    """Whether the run that made what is open here, under a name of ours, has ended."""
    try:
        return syscalls.lock(fd)
    except OSError:
        # Without locks: dead is what this machine can say is dead.
        return match["boot"] == _boot() and match["start"] != _start(int(match["pid"]))


def key_of(target: Path) -> str:
    """Twelve digits that stand for the target in the names of its temporaries."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]


def _start(pid: int) -> str:
    """When a process started, in ticks since boot; "0" where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "0"
    # The second field is the program's name in parentheses and may hold anything.
    return text.rpartition(")")[2].split()[19]


def _boot() -> str:
    """Eight digits that tell this boot of this machine from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "0" * 8
