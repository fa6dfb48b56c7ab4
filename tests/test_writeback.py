"""Hints to the kernel: often enough, over what was written, and never an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckmigrate.execute import syscalls
from ckmigrate.execute.writeback import Writeback

MB = 1 << 20


def test_a_hint_comes_once_enough_is_pending_and_covers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[tuple[int, int]] = []
    monkeypatch.setattr(
        syscalls, "start_writeback", lambda fd, nbytes, *, offset: hints.append((offset, nbytes))
    )
    wrote = Writeback(7)
    for offset in range(0, 80 * MB, 8 * MB):
        wrote(offset, 8 * MB)
    assert hints == [(0, 32 * MB), (32 * MB, 32 * MB)]
    # Written in no order: what is still pending, and what comes before it.
    wrote(200 * MB, 8 * MB)
    wrote(100 * MB, 8 * MB)
    assert hints[2:] == [(64 * MB, 144 * MB)]


def test_a_file_that_cannot_is_no_matter(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(b"x" * MB)
        file.flush()
        syscalls.start_writeback(file.fileno(), MB, offset=0)
    read, write = os.pipe()
    try:
        syscalls.start_writeback(write, MB, offset=0)
    finally:
        os.close(read)
        os.close(write)
    syscalls.start_writeback(-1, MB, offset=0)
