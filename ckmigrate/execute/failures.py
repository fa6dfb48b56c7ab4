"""What an error of the operating system means to somebody who upgrades a checkpoint."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError

__all__ = ["explained"]

_UNTOUCHED: Final = "Nothing was changed."

_MEANINGS: Final[dict[int, tuple[str, str, str]]] = {
    errno.ENOSPC: ("CKM752", "the disk is full", "Free space there, or write elsewhere with -o."),
    errno.EDQUOT: (
        "CKM752",
        "your disk quota is used up",
        "Free space there, or write elsewhere with -o.",
    ),
    errno.EFBIG: (
        "CKM756",
        "the file would be larger than this process or this file system allows",
        "Raise the limit (ulimit -f), or write to another file system with -o.",
    ),
    errno.EROFS: ("CKM755", "the file system is read-only", "Write elsewhere with -o."),
    errno.EACCES: (
        "CKM755",
        "you are not allowed to write there",
        "Ask for write permission on the folder, or write elsewhere with -o.",
    ),
    errno.EPERM: (
        "CKM755",
        "the operation is not permitted there",
        "Ask for write permission on the folder, or write elsewhere with -o.",
    ),
    errno.ENAMETOOLONG: ("CKM755", "the name is too long", "Choose a shorter name."),
    errno.EIO: (
        "CKM750",
        "an input/output error while the source was read or the result written",
        "Look at the system log (dmesg) and check the disk before you try again.",
    ),
    errno.ESTALE: (
        "CKM750",
        "the network file system lost the file",
        "Try again when the share is mounted and stable.",
    ),
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError about writing `path`.

    CKM752 no space, CKM755 not writable, CKM756 too large, CKM750 everything else.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: Path) -> StorageError:
    reason = error.strerror or str(error)
    unknown = ("CKM750", reason, "Try again; when it happens again, check the disk.")
    code, meaning, fix = _MEANINGS.get(error.errno or 0, unknown)
    place = f", at {error.filename}" if error.filename else ""
    return StorageError(
        code,
        f"cannot write {path.name}: {meaning}",
        where=str(path),
        why=f"{reason}{place}. {_UNTOUCHED}",
        fix=fix,
    )
