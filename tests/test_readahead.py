"""What is copied next is asked for in time, once, and in pieces that are worth a call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.execute import ranges as copies
from ckmigrate.execute import readahead, syscalls
from ckmigrate.execute.ranges import Range
from ckmigrate.execute.readahead import AHEAD, ReadAhead
from tests.projects import Zoo, load, same
from tests.shards import folder

MB = 1 << 20
Asked = list[tuple[int, int, int]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """(descriptor, offset, bytes) of every hint."""
    found: Asked = []
    monkeypatch.setattr(
        syscalls, "read_ahead", lambda fd, nbytes, *, offset: found.append((fd, offset, nbytes))
    )
    return found


def test_the_lead_is_kept_while_the_copy_goes_on(asked: Asked) -> None:
    ahead = ReadAhead([(0, 4096, 0, 200 * MB)], (7,))
    assert asked == [(7, 4096, 16 * MB), (7, 4096 + 16 * MB, 16 * MB)]
    ahead(8 * MB)
    assert asked[2:] == [(7, 4096 + 32 * MB, 16 * MB)]
    ahead(8 * MB)
    assert len(asked) == 3
    ahead(184 * MB)
    assert sum(nbytes for _, _, nbytes in asked) == 200 * MB


def test_ranges_are_asked_for_in_the_order_of_the_copy_whatever_file_they_are_in(
    asked: Asked,
) -> None:
    ReadAhead([(1, 0, 0, 5 * MB), (0, 90 * MB, 5 * MB, 3 * MB), (0, 0, 8 * MB, MB)], (7, 8))
    assert asked == [(8, 0, 5 * MB), (7, 90 * MB, 3 * MB), (7, 0, MB)]


def test_thousands_of_neighbours_are_few_calls(asked: Asked) -> None:
    ReadAhead([(0, 5000 * n, 4096 * n, 4096) for n in range(4000)], (7,))
    assert len(asked) == 2
    assert asked[0][1] == 0
    assert sum(asked[-1][1:]) == 5000 * 3999 + 4096


RANGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 40), st.booleans()).map(
        lambda r: (r[0], r[1] * MB, 0, r[2] * MB if r[3] else r[2] * 1000)
    ),
    max_size=12,
)


@given(RANGES, st.lists(st.integers(1, 50), max_size=30))
def test_every_byte_is_asked_for_before_it_is_copied(
    ranges: list[Range], copies: Iterable[int]
) -> None:
    found: Asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            syscalls, "read_ahead", lambda fd, nbytes, *, offset: found.append((fd, offset, nbytes))
        )
        ahead = ReadAhead(ranges, (0, 1, 2))
        done, total = 0, sum(item[3] for item in ranges)
        for copied in copies:
            step = min(copied * MB, total - done)
            ahead(step)
            done += step
            assert sum(nbytes for _, _, nbytes in found) >= min(total, done + AHEAD)
        ahead(total - done)
    for file, start, _, nbytes in ranges:
        at = start
        while at < start + nbytes:
            ends = [begin + n for f, begin, n in found if f == file and begin <= at < begin + n]
            assert ends
            at = max(ends)


def test_what_is_passed_over_does_not_count_as_copied(asked: Asked) -> None:
    """Tiny ranges with gaps: a hundred times as much is read as is wanted."""
    ranges = [(0, 100_000 * n, 1000 * n, 1000) for n in range(40_000)]
    ahead = ReadAhead(ranges, (7,))
    for _ in range(40):
        ahead(1_000_000)
    assert sum(asked[-1][1:]) == 100_000 * 39_999 + 1000


def test_a_file_that_cannot_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MB)
    with (tmp_path / "a").open("rb") as file:
        syscalls.read_ahead(file.fileno(), 8 * MB, offset=0)
    read, write = os.pipe()
    try:
        syscalls.read_ahead(read, MB, offset=0)
    finally:
        os.close(read)
        os.close(write)
    syscalls.read_ahead(-1, MB, offset=0)


def test_files_that_are_opened_ahead_do_not_take_the_place_of_the_one_that_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files than stay open at a time lie behind a tensor that is copied in several steps."""
    monkeypatch.setattr(copies, "_STEP", 64 << 10)
    monkeypatch.setattr(readahead, "AHEAD", 64 << 10)
    monkeypatch.setattr(readahead, "_STEP", 32 << 10)
    large = torch.arange(20 << 10, dtype=torch.int32)
    tiny = {f"tiny.{n:03}": torch.full((100,), n, dtype=torch.int32) for n in range(150)}
    state = {"large": large, **tiny}
    zoo = Zoo(tmp_path / "zoo", "ck.rename('large', 'renamed')")
    old = folder(tmp_path / "zoo" / "old", [{name: value} for name, value in state.items()])
    new = load(zoo.upgrade(old, "new.safetensors"))
    assert same(new, {"renamed": large, **tiny})
