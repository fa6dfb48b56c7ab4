"""Sending what was written to the disk early, while the rest is still being copied.

A kernel keeps written bytes in memory until it has to: a file of gigabytes then waits for the disk
once more at the end, when it must be durable. Nothing here makes anything durable; `fsync` does.
"""

from __future__ import annotations

from typing import Final

from ckmigrate.execute import syscalls

__all__ = ["Writeback"]

_STEP: Final = 32 << 20


class Writeback:
    """Hears of every write to the file `fd`, and tells the kernel now and then."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._begin = self._end = self._pending = 0

    def __call__(self, offset: int, nbytes: int) -> None:
        """These bytes are in place."""
        end = offset + nbytes
        self._begin = min(self._begin, offset) if self._pending else offset
        self._end = max(self._end, end) if self._pending else end
        self._pending += nbytes
        if self._pending >= _STEP:
            syscalls.start_writeback(self._fd, self._end - self._begin, offset=self._begin)
            self._pending = 0
