"""CRC-32 sums of a file that is being written, by a thread that runs behind the writer.

The sums are of what stands in the file, so they also tell whether the bytes of the source arrived:
a record that was copied in parts is compared with its sum by joining the sums of the parts.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from ckmigrate.execute import syscalls

__all__ = ["RunningSums", "joined", "running_sums", "sum_of"]

_PIECE: Final = 1 << 20
_POLYNOMIAL: Final = 0xEDB88320
"""Of CRC-32, as zlib has it: bit 31 is the coefficient of x⁰."""
_ONE: Final = 1 << 31
_X: Final = 1 << 30


class RunningSums:
    """The sums of `ranges`, disjoint pairs of offset and length, of the open file `fd`.

    The writer says `wrote` for what is in place, in rising order within each range, and asks for
    the `result` at the end. Whatever goes wrong in the thread is raised by either of them.
    """

    def __init__(self, fd: int, ranges: Sequence[tuple[int, int]]) -> None:
        self._fd = fd
        self._ranges = sorted(ranges)
        self._starts = [offset for offset, _ in self._ranges]
        self._sums = [0] * len(ranges)
        from queue import SimpleQueue

        self._written: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._error: BaseException | None = None

    def wrote(self, offset: int, nbytes: int) -> None:
        """Sum these bytes, where they belong to a range, as soon as there is time."""
        if not self._ranges:
            return
        self._require_well()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checksums", daemon=True)
            self._thread.start()
        self._written.put((offset, nbytes))

    def result(self) -> dict[int, int]:
        """The sums by offset of their range, once all that was written is summed."""
        self._join()
        self._require_well()
        return dict(zip(self._starts, self._sums, strict=True))

    def stop(self) -> None:
        """End the thread, whatever it has not done yet."""
        self._stopped = True
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._written.put(None)
            self._thread.join()

    def _require_well(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        try:
            while (span := self._written.get()) is not None:
                self._sum(*span, buffer)
        except BaseException as error:  # noqa: BLE001 - raised again where somebody waits for it
            self._error = error

    def _sum(self, offset: int, nbytes: int, buffer: memoryview) -> None:
        """Read what was written in large pieces, each of which may hold many ranges."""
        end, number = offset + nbytes, max(bisect_right(self._starts, offset) - 1, 0)
        while number < len(self._ranges) and not self._stopped:
            start, length = self._ranges[number]
            offset = max(offset, start)
            if offset >= end:
                return
            if start + length <= offset:
                number += 1
                continue
            view = buffer[: self._stop(offset, end) - offset]
            syscalls.pread_into(self._fd, view, offset=offset)
            self._add(view, offset, number)
            offset += len(view)

    def _stop(self, offset: int, end: int) -> int:
        """Up to where a piece goes on: not behind the last range that begins in it."""
        last = bisect_left(self._starts, min(offset + _PIECE, end)) - 1
        return min(offset + _PIECE, end, sum(self._ranges[last]))

    def _add(self, view: memoryview, offset: int, number: int) -> None:
        """Add bytes of the file to the sums of their ranges, the first of which is `number`."""
        end = offset + len(view)
        for place in range(number, bisect_left(self._starts, end)):
            start, length = self._ranges[place]
            part = view[max(start - offset, 0) : start + length - offset]
            self._sums[place] = zlib.crc32(part, self._sums[place])


@contextmanager
def running_sums(fd: int, ranges: Sequence[tuple[int, int]]) -> Iterator[RunningSums]:
    """Sums of a file that is written inside the block; no thread outlives it."""
    sums = RunningSums(fd, ranges)
    try:
        yield sums
    finally:
        sums.stop()


def sum_of(fd: int, offset: int, nbytes: int) -> int:
    """The CRC-32 of a range of a file, which is read in pieces."""
    buffer, crc, end = memoryview(bytearray(min(nbytes, _PIECE))), 0, offset + nbytes
    while offset < end:
        view = buffer[: end - offset]
        syscalls.pread_into(fd, view, offset=offset)
        crc = zlib.crc32(view, crc)
        offset += len(view)
    return crc


def joined(sums: Sequence[tuple[int, int]]) -> int:
    """The CRC-32 of parts that follow each other, from pairs of the sum and the length of each.

    A message is a polynomial over GF(2) and its sum the remainder of a division: n more bytes
    behind it multiply that by x^8n.
    """
    crc = 0
    for part, nbytes in sums:
        # The first part, and the only one of most records, is moved by nothing.
        crc = (_product(_power(8 * nbytes), crc) if crc else 0) ^ part
    return crc


@lru_cache(maxsize=1024)
def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    result, square = _ONE, _X
    while exponent:
        if exponent & 1:
            result = _product(result, square)
        square = _product(square, square)
        exponent >>= 1
    return result


def _product(one: int, other: int) -> int:
    """The product of two remainders modulo the polynomial."""
    result = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            result ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return result
