"""Writing the data of a plan into the slots of a file.

Byte ranges are copied by the kernel, neighbouring ones at once; where the archive needs checksums
the bytes pass through this process in pieces. Gathers and computations stream one tensor, or one
chunk of it, at a time.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckmigrate.errors import MigrationError
from ckmigrate.execute import syscalls
from ckmigrate.execute.evaluate import Evaluator, chunks
from ckmigrate.execute.source import SourceFile
from ckmigrate.expr import Expr
from ckmigrate.formats.base import FileImage
from ckmigrate.lower import Copy, FillRange, Lowered, SourceRange, lower
from ckmigrate.step import Check

__all__ = ["Progress", "Work", "check_claims", "fill", "read_expression"]

_PIECE = 4 << 20

Progress = Callable[[int], None]
"""Called with a number of bytes that were just written."""

_Range = tuple[int, int, int, int]
"""(number of the source file, offset in it, offset in the target, bytes)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What fills one slot."""

    label: str
    expr: Expr
    lowered: Lowered


def fill(
    fd: int,
    image: FileImage,
    work: Mapping[str, Work],
    source: SourceFile,
    progress: Progress,
) -> dict[str, int]:
    """Write every slot; the CRC-32 of each by key where the image asks for them, else {}."""
    evaluator = Evaluator(source.read)
    copies: list[_Range] = []
    sums: dict[str, int] = {}
    for item in work.values():
        if not isinstance(item.lowered, Copy):
            evaluator.expect(item.expr)
    for key, item in work.items():
        offset = image.slots[key].offset
        if isinstance(item.lowered, Copy) and image.finish is None:
            copies.extend(_kernel_copies(fd, offset, item.lowered, source, progress))
        else:
            pieces = _pieces(item, source, evaluator)
            sums[key] = _write(fd, offset, pieces, progress)
    for file, start, target, nbytes in _merged(copies):
        _copy(fd, source.fds[file], start, target, nbytes, progress)
    return sums if image.finish is not None else {}


def _write(fd: int, offset: int, pieces: Iterator[Any], progress: Progress) -> int:
    crc = 0
    for piece in pieces:
        syscalls.pwrite(fd, piece, offset=offset)
        crc = zlib.crc32(piece, crc)
        offset += len(piece)
        progress(len(piece))
    return crc


def _copy(
    fd: int, source_fd: int, start: int, target: int, nbytes: int, progress: Progress
) -> None:
    done = 0
    while done < nbytes:
        step = min(nbytes - done, 64 << 20)
        syscalls.copy_range(
            source_fd, fd, source_offset=start + done, target_offset=target + done, nbytes=step
        )
        done += step
        progress(step)


def _merged(copies: list[_Range]) -> Iterator[_Range]:
    """The ranges with neighbours on both sides joined."""
    current: _Range | None = None
    for item in sorted(copies, key=lambda item: item[2]):
        if current and _is_next(current, item):
            current = (*current[:3], current[3] + item[3])
            continue
        if current:
            yield current
        current = item
    if current:
        yield current


def _is_next(one: _Range, other: _Range) -> bool:
    """Whether a range goes on where another ends, in the same source and in the target."""
    (file, start, target, nbytes), (next_file, next_start, next_target, _) = one, other
    return file == next_file and next_start - start == next_target - target == nbytes


def _kernel_copies(
    fd: int, offset: int, copy: Copy, source: SourceFile, progress: Progress
) -> Iterator[_Range]:
    """Write fills and checksummed records now; give back the ranges that the kernel can copy."""
    for item in copy.ranges:
        if isinstance(item, FillRange):
            _write(fd, offset, _repeat(item), progress)
        elif source.has_unchecked_sum(item.name):
            _write(fd, offset, _read_range(item, source), progress)
        else:
            start = source.offset(item.name) + item.start
            yield source.record(item.name).file, start, offset, item.nbytes
        offset += item.nbytes


def _pieces(item: Work, source: SourceFile, evaluator: Evaluator) -> Iterator[Any]:
    if isinstance(item.lowered, Copy):
        for part in item.lowered.ranges:
            if isinstance(part, FillRange):
                yield from _repeat(part)
            else:
                yield from _read_range(part, source)
    else:
        for chunk in chunks(item.expr):
            yield _bytes(evaluator, chunk)


def _bytes(evaluator: Evaluator, expr: Expr) -> memoryview:
    import numpy as np

    value = np.ascontiguousarray(evaluator.evaluate(expr)).reshape(-1)
    return memoryview(value.view(np.uint8).data) if value.size else memoryview(b"")


def _repeat(item: FillRange) -> Iterator[bytes]:
    count = max(1, min(item.nbytes, _PIECE) // len(item.element))
    block, left = item.element * count, item.nbytes
    while left:
        piece = block[: min(left, len(block))]
        yield piece
        left -= len(piece)


def _read_range(item: SourceRange, source: SourceFile) -> Iterator[bytes]:
    """The bytes of a range; a whole record is checked against its sum in the same pass."""
    whole = source.is_whole_record(item.name, item.start, item.nbytes)
    if not whole:
        source.check(item.name)
    done, crc = 0, 0
    while done < item.nbytes:
        piece = source.read_bytes(item.name, item.start + done, min(_PIECE, item.nbytes - done))
        crc = zlib.crc32(piece, crc) if whole else 0
        done += len(piece)
        yield piece
    if whole:
        source.confirm(item.name, crc)


def read_expression(expr: Expr, source: SourceFile) -> bytes:
    """The bytes of one expression, worked out anew."""
    evaluator = Evaluator(source.read)
    item = Work("", expr, lower(expr, source.is_plain))
    evaluator.expect(expr)
    return b"".join(_pieces(item, source, evaluator))


def check_claims(checks: tuple[Check, ...], source: SourceFile) -> None:
    """Compare the bytes of both sides of every claim; MigrationError CKM530 lists what differs."""
    evaluator = Evaluator(source.read)
    sides = [
        [Work("", expr, lower(expr, source.is_plain)) for expr in (check.left, check.right)]
        for check in checks
    ]
    for item in (item for pair in sides for item in pair):
        if not isinstance(item.lowered, Copy):
            evaluator.expect(item.expr)
    broken = []
    for check, pair in zip(checks, sides, strict=True):
        left, right = (_digest(_pieces(item, source, evaluator)) for item in pair)
        if left != right:
            broken.append(f"{_names(check.left)} and {_names(check.right)}: {check.claim}")
    if broken:
        raise MigrationError(
            "CKM530",
            f"{len(broken)} of {len(checks)} claims about values do not hold for this checkpoint",
            details=tuple(broken),
            why="A script, or a model that uses one tensor under two names, needs equal values; "
            "the bytes differ.",
            fix="Correct the script; for tied names, say in a script which of them to keep. "
            "Nothing was written.",
        )


def _digest(pieces: Iterator[Any]) -> bytes:
    """Of a whole tensor, which need not fit into memory."""
    found = hashlib.blake2b()
    for piece in pieces:
        found.update(piece)
    return found.digest()


def _names(expr: Expr) -> str:
    from ckmigrate.expr import sources

    return " + ".join(f"'{name}'" for name in sources(expr)) or "the constant"
