"""Room in headers, where the file system of the tests cannot make any.

A change in place inserts blocks into a file whose header is full. Where that is impossible, as on a
tmpfs, the files that the tests make get headers with room.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ckmigrate.execute import syscalls

__all__ = ["can_insert", "with_room"]

_ROOM = 4096


@cache
def can_insert(folder: Path) -> bool:
    """Whether blocks can be inserted into files of a folder."""
    path = folder / ".probe-of-the-tests"
    path.write_bytes(bytes(2 * _ROOM))
    before, syscalls.before = syscalls.before, None
    try:
        with path.open("r+b") as file:
            syscalls.insert_range(file.fileno(), _ROOM, offset=0)
    except OSError:
        return False
    finally:
        syscalls.before = before
        path.unlink()
    return True


def with_room(path: Path) -> Path:
    """The safetensors file, its header padded if nothing else can make room in it."""
    if not can_insert(path.parent):
        raw = path.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        size = (end - 8 + _ROOM).to_bytes(8, "little")
        path.write_bytes(size + raw[8:end] + b" " * _ROOM + raw[end:])
    return path
