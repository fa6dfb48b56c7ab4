"""Copies of byte ranges from one file to another: which are made in one step, and how.

Neighbours on both sides become one range. Small ranges that lie close to each other are copied
through memory, many in one read and one write: a call of the kernel for each takes longer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from ckmigrate.execute import syscalls
from ckmigrate.execute.source import Descriptors
from ckmigrate.formats.base import BLOCK

__all__ = ["Range", "batches", "copy", "give_back", "merged"]

_SMALL: Final = 1 << 16
"""Below this a file system that shares blocks gains little: `ckmigrate.placement` agrees."""
_GAP: Final = 1 << 12
_BATCH: Final = 1 << 20
_STEP: Final = 32 << 20

Range = tuple[int, int, int, int]
"""(number of the source file, offset in it, offset in the target, bytes)."""


def merged(copies: Iterable[Range]) -> Iterator[Range]:
    """The ranges that hold bytes, rising in the target, with neighbours on both sides joined."""
    current: Range | None = None
    for item in sorted(filter(itemgetter(3), copies), key=itemgetter(2)):
        if current and _is_next(current, item):
            current = (*current[:3], current[3] + item[3])
            continue
        if current:
            yield current
        current = item
    if current:
        yield current


def _is_next(one: Range, other: Range) -> bool:
    """Whether a range goes on where another ends, in the same source and in the target."""
    (file, start, target, nbytes), (next_file, next_start, next_target, _) = one, other
    return file == next_file and next_start - start == next_target - target == nbytes


def batches(ranges: Iterable[Range], kept: Sequence[int]) -> Iterator[list[Range]]:
    """The ranges, which rise in the target, with small neighbours in one list.

    kept  rising offsets of what is written into the target by others: no list goes over one
    """
    current: list[Range] = []
    for item in ranges:
        if current and not (_fits(current, item) and _is_free(kept, current[-1][2], item[2])):
            yield current
            current = []
        current.append(item)
    if current:
        yield current


def _is_free(kept: Sequence[int], start: int, stop: int) -> bool:
    return bisect_left(kept, start) == bisect_left(kept, stop)


def _fits(current: Sequence[Range], item: Range) -> bool:
    """Whether a range is close behind the last one, in the source and in the target."""
    file, first, _, _ = current[0]
    last_file, start, target, nbytes = current[-1]
    if max(nbytes, item[3]) >= _SMALL or not file == last_file == item[0]:
        return False
    gaps = item[1] - start - nbytes, item[2] - target - nbytes
    return min(gaps) >= 0 and max(gaps) <= _GAP and item[1] + item[3] - first <= _BATCH


def give_back(fd: int, nbytes: int, ranges: Sequence[Range], sources: Descriptors) -> bool:
    """Whether most bytes of a new file of `nbytes` can share the source's blocks; its own are freed
    then, as btrfs goes on counting all that was allocated with the first block that is in use."""
    whole = [r for r in ranges if r[3] >= 2 * BLOCK and (r[1] - r[2]) % BLOCK == 0]
    if 2 * sum(item[3] for item in whole) <= nbytes:
        return False
    file, start, target, _ = whole[0]
    skip = -start % BLOCK
    is_shared = syscalls.share_range(
        sources[file], fd, source_offset=start + skip, target_offset=target + skip, nbytes=BLOCK
    )
    if is_shared:
        syscalls.truncate(fd, 0)
        syscalls.truncate(fd, nbytes)
    return is_shared


def copy(
    fd: int, batch: Sequence[Range], sources: Descriptors, written: Callable[[int, int], None]
) -> None:
    """Copy what `batches` has put together; `written` hears of (offset, bytes) in the target.

    Zeros are written between the ranges of a batch: what stands there has to be written later.
    """
    if len(batch) > 1:
        written(*_through_memory(fd, batch, sources[batch[0][0]]))
        return
    file, start, target, nbytes = batch[0]
    done = 0
    while done < nbytes:
        step = min(nbytes - done, _to_border(start + done, target + done) or _STEP)
        # Asked for anew: who hears of `written` opens other files, and the number may be theirs.
        source_fd = sources[file]
        syscalls.copy_range(
            source_fd, fd, source_offset=start + done, target_offset=target + done, nbytes=step
        )
        written(target + done, step)
        done += step


def _to_border(start: int, target: int) -> int:
    """Bytes up to the border of a block where both sides reach one together: file systems share
    whole blocks only, and copy everything where a range begins inside of one."""
    return -start % BLOCK if (start - target) % BLOCK == 0 else 0


def _through_memory(fd: int, batch: Sequence[Range], source_fd: int) -> tuple[int, int]:
    (_, first, begin, _), (_, start, target, nbytes) = batch[0], batch[-1]
    data = memoryview(bytearray(start + nbytes - first))
    syscalls.pread_into(source_fd, data, offset=first)
    out = memoryview(bytearray(target + nbytes - begin))
    for _, at, to, length in batch:
        out[to - begin : to - begin + length] = data[at - first : at - first + length]
    syscalls.pwrite(fd, out, offset=begin)
    return begin, len(out)
