"""Reading from a place in an open file: never from a memory map, which dies with the file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ckmigrate.errors import StorageError

__all__ = ["Region", "read_at"]


@dataclass(frozen=True, slots=True)
class Region:
    """The open file `fd` from byte `begin` on, read as if it began there."""

    fd: int
    begin: int


def read_at(fd: int | Region, offset: int, nbytes: int, *, where: str) -> bytes:
    """Exactly `nbytes` from `offset`; StorageError CKM707 where the file ends before, or fails."""
    if isinstance(fd, Region):
        return read_at(fd.fd, fd.begin + offset, nbytes, where=where)
    parts: list[bytes] = []
    while nbytes:
        try:
            part = os.pread(fd, nbytes, offset)
        except OSError as error:
            what = f"cannot read: {error.strerror}"
            fix = "Check the disk or the network share that the file is on."
            raise StorageError("CKM707", what, where=where, fix=fix) from error
        if not part:
            what = f"the file ends at byte {offset}, {nbytes} bytes too early"
            fix = "Something changed the file while it was read; run the command again."
            raise StorageError("CKM707", what, where=where, fix=fix)
        parts.append(part)
        offset += len(part)
        nbytes -= len(part)
    return b"".join(parts)
