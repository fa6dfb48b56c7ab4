"""Sums of a file while it is written: what they are, and that their thread always ends."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import StorageError
from ckmigrate.execute import checksums, syscalls
from ckmigrate.execute.checksums import joined, running_sums, sum_of
from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import carry_out
from tests.projects import Zoo, load, names_in, same


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_joined_sums_are_those_of_the_joined_bytes(parts: list[bytes]) -> None:
    assert joined([(zlib.crc32(p), len(p)) for p in parts]) == zlib.crc32(b"".join(parts))


def test_long_parts_are_joined_too() -> None:
    one, other = os.urandom(3_000_001), bytes(5_000_000)
    sums = [(zlib.crc32(part), len(part)) for part in (one, other)]
    assert joined(sums) == zlib.crc32(one + other)


def test_ranges_are_summed_whatever_the_pieces_in_which_they_come(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "_PIECE", 1000)
    data = os.urandom(100_000)
    ranges = [(50_000, 49_000), (10, 20_000), (20_010, 5)]
    with running_sums(file, ranges) as sums:
        for start in range(0, len(data), 7_001):
            os.pwrite(file, data[start : start + 7_001], start)
            sums.wrote(start, len(data[start : start + 7_001]))
        found = sums.result()
    assert found == {begin: zlib.crc32(data[begin : begin + n]) for begin, n in ranges}


def test_a_range_of_a_file_is_summed_in_pieces(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_PIECE", 1000)
    data = os.urandom(10_500)
    os.write(file, data)
    assert sum_of(file, 100, 10_000) == zlib.crc32(data[100:10_100])
    assert sum_of(file, 100, 0) == 0


def test_where_nothing_is_summed_no_thread_starts(file: int) -> None:
    with running_sums(file, []) as sums:
        sums.wrote(0, 10)
        assert not [t for t in threading.enumerate() if t.name == "checksums"]
        assert sums.result() == {}


def test_a_failure_of_the_thread_is_raised(file: int) -> None:
    with running_sums(file, [(0, 10)]) as sums:
        sums.wrote(0, 10)  # of an empty file
        with pytest.raises(StorageError) as caught:
            sums.result()
    assert caught.value.code == "CKM753"


def test_an_interrupted_writer_does_not_wait_for_the_sums(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.ftruncate(file, 1 << 40)
    reads: list[str] = []
    monkeypatch.setattr(syscalls, "before", lambda name, _: reads.append(name))
    with suppress(KeyboardInterrupt), running_sums(file, [(0, 1 << 40)]) as sums:
        sums.wrote(0, 1 << 40)
        raise KeyboardInterrupt
    assert len(reads) < 1000


# --- the sources of a migration -----------------------------------------------------------------

USES = {
    "whole": "ck.rename('a', 'b')",
    "split": "ck.split('a', ['x', 'y', 'z'], dim=0)",
    "a part": "ck.slice('a', dim=0, stop=2)",
    "the other part": "ck.slice('a', dim=0, start=2)",
    "two parts over each other": "ck['x'] = ck['a'][:4]\nck['y'] = ck.take('a')[3:]",
    "joined with another": "ck.concat(['a', 'c'], 'b', dim=0)",
    "twice": "ck.copy('a', 'b')",
    "many parts": "ck['x'] = concat([ck['a'][i:i+1] for i in reversed(range(600))], dim=0)",
    "transposed": "ck.transpose('a', 0, 1)",
    "computed": "ck.compute('a', 'a', lambda t: t * 2)",
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_record_that_does_not_fit_its_sum_is_refused_however_it_is_used(
    tmp_path: Path, use: str, suffix: str
) -> None:
    zoo = Zoo(tmp_path, USES[use])
    tensor = torch.randn(600, 600)
    old = zoo.save({"a": tensor, "c": torch.randn(600, 600)})
    zoo.upgrade(old, f"good{suffix}")
    raw = bytearray(old.read_bytes())
    raw[raw.index(tensor.numpy().tobytes()) + 2 * 2400 - 1] ^= 1
    old.write_bytes(raw)
    error = zoo.refusal(old, f"new{suffix}")
    assert error.code == "CKM760"
    assert "damaged" in error.what


@pytest.mark.parametrize("use", USES)
def test_what_is_written_is_what_torch_reads(tmp_path: Path, use: str) -> None:
    zoo = Zoo(tmp_path, USES[use])
    state = {"a": torch.randn(600, 600), "c": torch.randn(600, 600)}
    old = zoo.save(state)
    assert same(load(zoo.upgrade(old)), load(zoo.upgrade(old, "new.safetensors")))


def test_a_byte_that_changes_on_its_way_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    prepared = zoo.prepare(zoo.save({"a": torch.zeros(1000)}))
    before = names_in(tmp_path)
    copy = syscalls.copy_range

    def bad(source: int, target: int, **where: int) -> None:
        copy(source, target, **where)
        os.pwrite(target, b"\1", where["target_offset"] + where["nbytes"] - 1)

    monkeypatch.setattr(syscalls, "copy_range", bad)
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(tmp_path / "new.pt"))
    assert caught.value.code == "CKM760"
    assert names_in(tmp_path) == before


def test_a_record_is_read_once_however_many_parts_it_goes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, USES["split"])
    old = zoo.save({"a": torch.randn(600, 600)})
    prepared = zoo.prepare(old)
    reads: list[int] = []

    def count(name: str, arguments: tuple[object, ...]) -> None:
        fd = arguments[0]
        if name == "pread" and isinstance(fd, int) and os.path.samestat(os.fstat(fd), old.stat()):
            reads.append(fd)

    monkeypatch.setattr(syscalls, "before", count)
    carry_out(prepared, Destination(tmp_path / "new.pt"))
    assert not reads
