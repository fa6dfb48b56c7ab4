"""Open a checkpoint of any format: what it is, its content decides and not its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Final, Never

from ckmigrate.errors import StorageError
from ckmigrate.formats import safetensors
from ckmigrate.formats.base import Record, Stored
from ckmigrate.formats.folder_names import DATA_SUFFIX, METADATA

if TYPE_CHECKING:
    from ckmigrate.formats.content import Foreign

__all__ = ["is_checkpoint_folder", "open_checkpoint", "open_regular"]

_HEAD: Final = 4096
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGEST_TEXT: Final = 100_000_000
_SAVE_AGAIN: Final = "Load it with torch and save it again."


def open_checkpoint(
    path: Path, *, carry: Sequence[str] = (), before: Stored | None = None
) -> Stored:
    """Read a checkpoint, but for its tensor bytes: a file, a folder of weights, or its index.

    carry  classes ("mypkg.config.Config") that a torch file may name beyond the allowed ones
    before a checkpoint that was read before, and that may have chunks in common with this one:
           what is still the same file need not be read again

    Raises StorageError CKM706 (missing), CKM707 (not readable, not a file), CKM708 (not a
    checkpoint), CKM709 (it never arrived: a pointer, a web page, an empty file), and what the
    reader of its format raises.
    """
    names = tuple(carry)
    if _is_dcp(path):
        from ckmigrate.formats.dcp import read_dcp

        return read_dcp(path, open_regular, _text, names, before)
    if os.path.isdir(path) or path.name.endswith(".index.json"):
        from ckmigrate.formats.sharded import read_folder

        def read_part(file: Path, prefix: str) -> tuple[object, Mapping[str, Record]]:
            return _open_part(file, prefix, names)

        return read_folder(path, lambda file: _open_file(file, names), _text, read_part)
    return _open_file(path, names)


def is_checkpoint_folder(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is one checkpoint, whole or not, and not a folder of
    several."""
    from ckmigrate.formats.folder_names import holds_weights

    return any(name.endswith(DATA_SUFFIX) for name in names) or holds_weights(names)


def _is_dcp(path: Path) -> bool:
    """Whether a path is the `.metadata` of a torch distributed checkpoint, or a folder with one
    that is not meant otherwise: files of that name are used by others too."""
    file = path / METADATA if os.path.isdir(path) else path
    if file.name != METADATA or not file.is_file():
        return False
    from ckmigrate.formats.content import PICKLE_START

    fd = open_regular(file)
    try:
        return file is path or os.pread(fd, 1, 0) == PICKLE_START
    finally:
        os.close(fd)


def _open_file(path: Path, carry: tuple[str, ...]) -> Stored:
    fd = open_regular(path)
    try:
        return _read(path, fd, carry)
    except StorageError as error:
        if path.suffix == DATA_SUFFIX:
            what, fix = f"{path.name} is not a checkpoint by itself", f"Give {path.parent}."
            why = "it holds data of a distributed checkpoint, which is the folder that it is in"
            raise StorageError("CKM708", what, where=str(path), why=why, fix=fix) from error
        raise
    finally:
        os.close(fd)


def _open_part(
    path: Path, prefix: str, carry: tuple[str, ...]
) -> tuple[object, Mapping[str, Record]]:
    """The tree and the records of a torch file that is a part of a checkpoint."""
    from ckmigrate.formats.content import foreign
    from ckmigrate.formats.read_at import Region
    from ckmigrate.formats.torch_legacy import is_torch_legacy
    from ckmigrate.formats.torch_zip import is_torch_zip, read_part

    fd = open_regular(path)
    try:
        head = _head(path, fd)
        if is_torch_legacy(head):
            _refuse(path, "CKM717", "is in torch's format before 1.6", fix=_SAVE_AGAIN)
        if not is_torch_zip(head):
            raise _refused_content(path, head, foreign(head))
        size = os.fstat(fd).st_size
        return read_part(Region(fd, 0), size, prefix, where=str(path), carry=carry)
    finally:
        os.close(fd)


def _text(path: Path) -> bytes:
    """All bytes of a small file; StorageError CKM707 where it is a large one."""
    from ckmigrate.formats.read_at import read_at

    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > _LARGEST_TEXT:
            why = f"it has {size} bytes, and such a file has {_LARGEST_TEXT} at most"
            _refuse(path, "CKM707", "is too large to be read", why=why, fix="Check what it is.")
        return read_at(fd, 0, size, where=str(path))
    finally:
        os.close(fd)


def open_regular(path: Path) -> int:
    """A descriptor to read the regular file that `path` stands for, symbolic links followed once.

    Never waits for a pipe or a device. Raises StorageError CKM706 (missing) or CKM707.
    """
    try:
        # Links are resolved first, so that a link put there in between is refused.
        fd = os.open(os.path.realpath(path), _FLAGS)
    except (OSError, ValueError) as error:
        _refuse_open(path, error)
    try:
        _check_regular(path, os.fstat(fd).st_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read(path: Path, fd: int, carry: tuple[str, ...]) -> Stored:
    stat = os.fstat(fd)
    head = _head(path, fd)
    # First: the length at its start can be any bytes, also those that mark another format.
    if safetensors.is_safetensors(head, stat.st_size):
        return safetensors.read(path, fd, stat)
    # Not needed for a safetensors file, and slower to import than it is to read.
    from ckmigrate.formats.content import PICKLE, foreign

    kind = foreign(head)
    if kind is None or kind is PICKLE:
        from ckmigrate.formats import torch_legacy, torch_zip

        if torch_legacy.is_torch_legacy(head):
            return torch_legacy.read(path, fd, stat, carry)
        if torch_zip.is_torch_zip(head):
            return torch_zip.read(path, fd, stat, carry)
    raise _refused_content(path, head, kind)


def _head(path: Path, fd: int) -> bytes:
    try:
        return os.pread(fd, _HEAD, 0)
    except OSError as error:
        _refuse_open(path, error)


def _refuse(path: Path, code: str, what: str, *, fix: str, why: str | None = None) -> Never:
    raise StorageError(code, f"{path.name or path} {what}", where=str(path), why=why, fix=fix)


def _refused_content(path: Path, head: bytes, kind: Foreign | None) -> StorageError:
    if kind is not None:
        import shlex  # few files are refused

        code = "CKM709" if kind.lost else "CKM708"
        about = shlex.quote(str(path.with_name(kind.about or path.name)))
        fix = kind.fix.format(name=path.name, about=about)
        return StorageError(code, f"{path.name} is {kind.kind}", where=str(path), fix=fix)
    return StorageError(
        "CKM708",
        f"{path.name} is not a checkpoint that ckmigrate knows",
        where=str(path),
        why=f"it begins with the bytes {head[:16].hex(' ')}; known are safetensors files and files "
        "of torch.save, which begin differently",
        fix="Check that the download is complete and that it is a PyTorch checkpoint.",
    )


def _check_regular(path: Path, mode: int) -> None:
    if S_ISREG(mode):
        return
    if S_ISDIR(mode):
        _refuse(path, "CKM707", "is a folder, not a file of weights", fix="Give a file in it.")
    _refuse(
        path,
        "CKM707",
        "is not a regular file",
        why="a pipe or a device cannot be read twice",
        fix="Save it to a file first.",
    )


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it cannot be listed."""
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def _refuse_open(path: Path, error: OSError | ValueError) -> Never:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.ENOTDIR):
        _refuse_missing(path)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    fixes = {
        errno.EACCES: "Ask for permission to read it and to enter the folders above it.",
        errno.ELOOP: "Check the symbolic links that lead to it.",
        errno.ENXIO: "Give a regular file, not a socket or a device.",
        errno.EIO: "Check the disk or the network share that it is on.",
    }
    raise StorageError(
        "CKM707",
        f"cannot read {path.name!r}: {reason}",
        where=repr(str(path))[1:-1],
        fix=fixes.get(number or 0, "Check the path."),
    ) from error


def _refuse_missing(path: Path) -> Never:
    """CKM706 with the nearest names that do exist."""
    folder = path.parent
    if path.is_symlink():
        why = f"it is a symbolic link to {os.readlink(path)}, and that does not exist"
        fix = "Fetch the file that the link leads to, or correct the link."
    elif not folder.is_dir():
        why = f"there is no folder {folder}"
        fix = "Check the path."
    else:
        import difflib

        near = difflib.get_close_matches(path.name, _names(folder)[:10_000], n=3, cutoff=0.5)
        why = f"nothing in {folder} has this name"
        fix = f"Did you mean {' or '.join(near)}?" if near else "Check the path."
    _refuse(path, "CKM706", "does not exist", why=why, fix=fix)
