"""Whether the result of a plan stands at its place already, from an earlier run.

What is known of a file before it is written (headers, the pickle, the index, the tag) is compared
byte for byte, and so are the sizes. Tensors are not read: that they are those of the source is told
by the times. A source that was written, replaced or renamed since has a later change time, which no
copying tool can set back; then the result is not taken for finished.
"""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISREG

from ckmigrate.execute.preflight import Destination
from ckmigrate.formats.base import FileImage
from ckmigrate.migrate import build_output
from ckmigrate.prepare import Prepared

__all__ = ["is_finished"]


def is_finished(prepared: Prepared, destination: Destination) -> bool:
    """Whether every file that the plan would write is there, made after the source was last
    changed. What cannot be read is not finished."""
    path = destination.path
    if not path.exists():
        return False
    output = build_output(prepared, path, folder=destination.folder)
    if output.is_folder != path.is_dir():
        return False
    try:
        since = max(os.stat(f.path).st_ctime_ns for f in prepared.opened.stored.files)
        made = all(_stands(path / name, f.image, since) for name, f in output.files.items())
    except OSError:
        return False
    return made and all((path / name).exists() for name in output.carried)


def _stands(path: Path, image: FileImage, since: int) -> bool:
    found = os.stat(path)
    if not S_ISREG(found.st_mode) or found.st_size != image.size or found.st_mtime_ns < since:
        return False
    with path.open("rb") as file:
        return all(_holds(file.fileno(), offset, data) for offset, data in image.chunks)


def _holds(fd: int, offset: int, data: bytes) -> bool:
    return os.pread(fd, len(data), offset) == data
