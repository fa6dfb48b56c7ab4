"""Writing the data of a plan into the slots of a file.

Byte ranges are copied by the kernel, neighbouring ones at once, and many small ones together
through memory; where checksums are needed, a thread reads what was written. Gathers and
computations stream one tensor, or one chunk of it, at a time.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ckmigrate.errors import MigrationError
from ckmigrate.execute import syscalls
from ckmigrate.execute.checksums import RunningSums, joined, running_sums
from ckmigrate.execute.evaluate import Evaluator, chunks
from ckmigrate.execute.items import contiguous
from ckmigrate.execute.ranges import Range, batches, copy, give_back, merged
from ckmigrate.execute.readahead import ReadAhead
from ckmigrate.execute.source import SourceFile
from ckmigrate.execute.writeback import Writeback
from ckmigrate.expr import Expr, Result, walk
from ckmigrate.formats.base import FileImage, Slot
from ckmigrate.lower import Copy, FillRange, Lowered, SourceRange, lower
from ckmigrate.step import Check

__all__ = ["Progress", "Work", "check_claims", "fill", "read_expression", "read_pieces"]

_PIECE = 4 << 20
_MOST_PARTS = 64

Progress = Callable[[int], None]
"""Called with a number of bytes that were just written."""


@dataclass(frozen=True, slots=True)
class Work:
    """What fills one slot."""

    label: str
    expr: Expr
    lowered: Lowered


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of a slot: a range of the source, or what is made."""

    key: str
    offset: int
    nbytes: int
    origin: SourceRange | None = None


@dataclass(frozen=True, slots=True)
class _Written:
    """Who hears of bytes that are in place."""

    sums: RunningSums
    writeback: Writeback
    progress: Progress
    ahead: Callable[[int], None] = lambda nbytes: None

    def __call__(self, offset: int, nbytes: int) -> None:
        self.sums.wrote(offset, nbytes)
        self.writeback(offset, nbytes)
        self.progress(nbytes)
        self.ahead(nbytes)


def fill(
    fd: int,
    image: FileImage,
    work: Mapping[str, Work],
    source: SourceFile,
    progress: Progress,
) -> dict[str, int]:
    """Write every slot; the CRC-32 of each by key where the image asks for them, else {}.

    What stands between slots may be written too, so that the rest of the image comes later.

    StorageError CKM760 where the bytes of a source do not fit their checksum.
    """
    work = {key: _resolved(item, source) for key, item in work.items()}
    parts = [part for key, item in work.items() for part in _parts(key, image.slots[key], item)]
    summed = [part for part in parts if image.finish or _has_sum(part, source)]
    with running_sums(fd, [(part.offset, part.nbytes) for part in summed]) as sums:
        written = _Written(sums, Writeback(fd), progress)
        ranges = list(merged(_copies(image, work, source)))
        is_shared = give_back(fd, image.size, ranges, source.fds)
        _make(fd, image, work, source, written)
        if not is_shared:
            written = replace(written, ahead=ReadAhead(ranges, source.fds))
        for batch in batches(ranges, sorted(_made(image, work))):
            copy(fd, batch, source.fds, written)
        found = sums.result()
    source.confirm_parts((p.origin, found[p.offset]) for p in summed if p.origin)
    for name in {name for item in work.values() for name in _copied(item)}:
        source.check(name)
    return _slot_sums(summed, found) if image.finish else {}


def _resolved(item: Work, source: SourceFile) -> Work:
    """With the ranges of a tensor that was saved in parts as ranges of these parts."""
    if not isinstance(item.lowered, Copy):
        return item
    ranges: list[SourceRange | FillRange] = []
    for part in item.lowered.ranges:
        ranges += source.resolved(part) if isinstance(part, SourceRange) else (part,)
    return replace(item, lowered=Copy(tuple(ranges)))


def _parts(key: str, slot: Slot, item: Work) -> Iterator[_Part]:
    """The slot in parts that are summed apart, or as one where they would be too many.

    Parts of a record together tell its sum, so that it need not be read again."""
    offset = slot.offset
    if not isinstance(item.lowered, Copy) or len(item.lowered.ranges) > _MOST_PARTS:
        if slot.nbytes:
            yield _Part(key, offset, slot.nbytes)
        return
    for part in item.lowered.ranges:
        yield _Part(key, offset, part.nbytes, part if isinstance(part, SourceRange) else None)
        offset += part.nbytes


def _has_sum(part: _Part, source: SourceFile) -> bool:
    return part.origin is not None and source.has_unchecked_sum(part.origin.name)


def _copied(item: Work) -> set[str]:
    """The sources whose bytes the kernel copies."""
    ranges = item.lowered.ranges if isinstance(item.lowered, Copy) else ()
    return {part.name for part in ranges if isinstance(part, SourceRange)}


def _slot_sums(parts: Iterable[_Part], found: Mapping[int, int]) -> dict[str, int]:
    by_slot: dict[str, list[tuple[int, int]]] = {}
    for part in parts:
        by_slot.setdefault(part.key, []).append((found[part.offset], part.nbytes))
    return {key: joined(sums) for key, sums in by_slot.items()}


def _make(
    fd: int, image: FileImage, work: Mapping[str, Work], source: SourceFile, written: _Written
) -> None:
    """Write what is no copy: constants, gathers and computations."""
    evaluator = Evaluator(source.read)
    computed = _largest_first(work)
    for key in computed:
        evaluator.expect(work[key].expr)
    for key in computed:
        _write(fd, image.slots[key].offset, _pieces(work[key], source, evaluator), written)
    for key, item in work.items():
        offset = image.slots[key].offset
        for part in item.lowered.ranges if isinstance(item.lowered, Copy) else ():
            if isinstance(part, FillRange):
                _write(fd, offset, _repeat(part), written)
            offset += part.nbytes


def _largest_first(work: Mapping[str, Work]) -> list[str]:
    """The slots that are no copies, so that memory only falls: the outputs of one function stand
    together, since its results stay until the last of them is written."""
    groups: dict[object, list[str]] = {}
    for key, item in work.items():
        if not isinstance(item.lowered, Copy):
            called = next((id(n.call) for n in walk(item.expr) if isinstance(n, Result)), key)
            groups.setdefault(called, []).append(key)
    sizes = {name: sum(work[key].expr.spec.nbytes for key in keys) for name, keys in groups.items()}
    return [key for name in sorted(groups, key=lambda name: -sizes[name]) for key in groups[name]]


def _write(fd: int, offset: int, pieces: Iterator[Any], written: _Written) -> None:
    for piece in pieces:
        syscalls.pwrite(fd, piece, offset=offset)
        written(offset, len(piece))
        offset += len(piece)
        del piece  # before the next one is made


def _copies(image: FileImage, work: Mapping[str, Work], source: SourceFile) -> Iterator[Range]:
    """What the kernel copies."""
    for key, item in work.items():
        offset = image.slots[key].offset
        for part in item.lowered.ranges if isinstance(item.lowered, Copy) else ():
            if isinstance(part, SourceRange):
                start = source.offset(part.name) + part.start
                yield source.record(part.name).file, start, offset, part.nbytes
            offset += part.nbytes


def _made(image: FileImage, work: Mapping[str, Work]) -> Iterator[int]:
    """The offsets of what is no copy."""
    for key, item in work.items():
        offset = image.slots[key].offset
        if not isinstance(item.lowered, Copy):
            yield offset
            continue
        for part in item.lowered.ranges:
            if isinstance(part, FillRange):
                yield offset
            offset += part.nbytes


def _pieces(item: Work, source: SourceFile, evaluator: Evaluator) -> Iterator[Any]:
    if isinstance(item.lowered, Copy):
        for part in item.lowered.ranges:
            if isinstance(part, FillRange):
                yield from _repeat(part)
                continue
            for range_ in source.resolved(part):
                yield from _read_range(range_, source)
    else:
        for chunk in chunks(item.expr):
            yield _bytes(evaluator, chunk)


def _bytes(evaluator: Evaluator, expr: Expr) -> memoryview:
    import numpy as np

    value = contiguous(evaluator.evaluate(expr)).reshape(-1)
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
    return b"".join(read_pieces(expr, source))


def read_pieces(expr: Expr, source: SourceFile) -> Iterator[Any]:
    """The same bytes piece by piece, so that the whole need not fit into memory."""
    evaluator = Evaluator(source.read)
    item = Work("", expr, lower(expr, source.is_plain))
    evaluator.expect(expr)
    yield from _pieces(item, source, evaluator)


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
