"""Copies of ranges: which are made in one step; each arrives, and nothing else changes."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination
from ckmigrate.execute.ranges import Range, batches, copy, merged
from ckmigrate.migrate import carry_out
from tests.projects import Zoo, load, names_in, same

KB = 1 << 10


def test_neighbours_on_both_sides_are_one_range() -> None:
    ranges = [(100, 1100, 10), (110, 1110, 5), (115, 1120, 5), (90, 1090, 10), (120, 1125, 1)]
    assert list(merged([(0, *item) for item in ranges])) == [(0, 90, 1090, 25), (0, 115, 1120, 6)]


def test_neighbours_in_two_files_are_two_ranges() -> None:
    ranges = [(0, 100, 1100, 10), (1, 110, 1110, 5)]
    assert list(merged(ranges)) == ranges


def sizes(ranges: Sequence[Range], kept: Sequence[int] = ()) -> list[int]:
    return [len(batch) for batch in batches(ranges, kept)]


def test_small_neighbours_go_together() -> None:
    close: list[Range] = [(0, 1000 * i, 1100 * i, 900) for i in range(100)]
    assert sizes(close) == [100]
    assert sizes(close, kept=[1100 * 50 - 100]) == [50, 50]
    assert sizes(close, kept=[-1, 1100 * 99 + 900]) == [100]


@pytest.mark.parametrize(
    "other",
    [
        (1, 1000, 1000, 900),
        (0, 1000, 1000, 64 * KB),
        (0, 1000, 900 + 5 * KB, 900),
        (0, 900 + 5 * KB, 1000, 900),
        (0, 800, 1000, 900),
    ],
    ids=["of another file", "large", "far in the target", "far in the source", "going back"],
)
def test_what_is_not_close_goes_by_itself(other: Range) -> None:
    assert sizes([(0, 0, 0, 900), other]) == [1, 1]


def test_a_batch_has_a_limit() -> None:
    ranges: list[Range] = [(0, 60 * KB * i, 60 * KB * i + i, 60 * KB) for i in range(100)]
    assert max(sizes(ranges)) == 17


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Range], list[tuple[int, int]]]:
    """Ranges of two sources, and what else stands in the target."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    ranges: list[Range] = []
    others: list[tuple[int, int]] = []
    target, starts = 0, [0, 0]
    for _ in range(draw(st.integers(1, 30))):
        target += generator.choice([0, 0, 1, 100, 5000])
        nbytes = generator.choice([0, 1, 50, 3000, 70_000])
        if generator.random() < 0.2:
            others.append((target, nbytes))
        else:
            file = generator.random() < 0.2
            start = starts[file] + generator.choice([0, 0, 1, 100, 5000, -20])
            ranges.append((int(file), max(start, 0), target, nbytes))
            starts[file] = max(start, 0) + nbytes
        target += nbytes
    generator.shuffle(ranges)
    return ranges, others


@given(layouts())
def test_every_range_arrives_and_what_others_wrote_stays(
    found: tuple[list[Range], list[tuple[int, int]]],
) -> None:
    ranges, others = found
    length = 2_500_000
    contents = [random.Random(seed).randbytes(length) for seed in (1, 2)]
    fds = [os.memfd_create("file") for _ in range(3)]
    try:
        for fd, content in zip(fds, contents, strict=False):
            os.write(fd, content)
        for offset, nbytes in others:
            os.pwrite(fds[2], b"\1" * nbytes, offset)
        heard: list[tuple[int, int]] = []
        for batch in batches(merged(ranges), sorted(offset for offset, _ in others)):
            copy(fds[2], batch, (fds[0], fds[1]), lambda at, n: heard.append((at, n)))
        result = os.pread(fds[2], length, 0)
    finally:
        for fd in fds:
            os.close(fd)
    for file, start, target, nbytes in ranges:
        assert result[target : target + nbytes] == contents[file][start : start + nbytes]
        told = (min(target + nbytes, at + n) - max(target, at) for at, n in heard)
        assert sum(max(part, 0) for part in told) == nbytes
    for offset, nbytes in others:
        assert result[offset : offset + nbytes] == b"\1" * nbytes


# --- many small records -------------------------------------------------------------------------

MANY = 2000


def small() -> dict[str, torch.Tensor]:
    return {f"layers.{i}.w": torch.full((1 + i % 50,), float(i)) for i in range(MANY)}


def test_many_small_records_take_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(tmp_path, "ck.rename('layers.**', 'blocks.**')")
    state = small()
    prepared = zoo.prepare(zoo.save(state))
    calls: list[str] = []
    monkeypatch.setattr(syscalls, "before", lambda name, _: calls.append(name))
    carry_out(prepared, Destination(tmp_path / "new.pt"))
    monkeypatch.setattr(syscalls, "before", None)
    assert same(
        load(tmp_path / "new.pt"), {n.replace("layers", "blocks"): t for n, t in state.items()}
    )
    assert calls.count("copy_file_range") + calls.count("pread") < MANY // 10


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("number", [0, 777, MANY - 1])
def test_one_damaged_record_of_many_is_found(tmp_path: Path, number: int, suffix: str) -> None:
    zoo = Zoo(tmp_path, "ck.rename('layers.**', 'blocks.**')")
    old = zoo.save(small() | {f"layers.{number}.w": torch.full((7,), 12345.678)})
    raw = bytearray(old.read_bytes())
    raw[raw.index(torch.full((7,), 12345.678).numpy().tobytes()) + 5] ^= 1
    old.write_bytes(raw)
    before = names_in(tmp_path)
    error = zoo.refusal(old, f"new{suffix}")
    assert isinstance(error, StorageError)
    assert error.code == "CKM760"
    assert f"layers.{number}.w" in error.what
    assert names_in(tmp_path) == before


def test_small_records_around_what_is_made(tmp_path: Path) -> None:
    zoo = Zoo(
        tmp_path,
        "ck.transpose('b', 0, 1)\nck.compute('d', 'd', lambda t: t * 2)\n"
        "ck.slice('e', dim=0, start=1)\nck.resize('f', (5,), fill=1.5)\nck.drop('g', reason='no')",
    )
    state = {name: torch.randn(3, 4) for name in "abcdegh"} | {"f": torch.randn(3)}
    found = load(zoo.upgrade(zoo.save(state)))
    assert torch.equal(found["b"], state["b"].T)
    assert torch.equal(found["d"], state["d"] * 2)
    assert torch.equal(found["e"], state["e"][1:])
    assert torch.equal(found["f"][:3], state["f"])
    assert all(torch.equal(found[name], state[name]) for name in "ach")
