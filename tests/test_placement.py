"""Where bytes are put so that kernels have little to do: in the order and phase of the source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckmigrate.execute import syscalls
from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests.projects import Zoo, load, same

STATE = {name: torch.randn(300, 100) for name in "abcdef"} | {"small": torch.randn(6)}
BLOCK = 4096


def copies(zoo: Zoo, old: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """(source offset, target offset, bytes) of every range that the kernel was asked to copy."""
    found: list[tuple[int, ...]] = []

    def note(name: str, arguments: tuple[object, ...]) -> None:
        if name == "copy_file_range":
            found.append(tuple(int(str(number)) for number in arguments[2:]))

    monkeypatch.setattr(syscalls, "before", note)
    zoo.run(old, out)
    monkeypatch.setattr(syscalls, "before", None)
    return found


def test_names_that_sort_differently_leave_the_data_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = "\n".join(
        f"ck.rename('{old}', 'n{new}')" for old, new in zip("abcdef", "513042", strict=True)
    )
    zoo = Zoo(tmp_path, renames)
    found = copies(zoo, zoo.save(STATE, "old.safetensors"), "new.safetensors", monkeypatch)
    assert len(found) == 2  # up to the border of a block, and the rest
    assert sum(nbytes for _, _, nbytes in found) == 6 * 120_000 + 24


def test_what_is_split_and_joined_stays_one_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, "ck.split('c', ['z', 'y', 'x'], dim=0)\nck.concat(['a', 'b'], 'w', dim=0)")
    found = copies(zoo, zoo.save(STATE, "old.safetensors"), "new.safetensors", monkeypatch)
    assert len(found) == 2


def test_what_is_new_lies_behind_the_rest(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.init('a0', shape=(5,))\nck.transpose('b', 0, 1)")
    old = zoo.save(STATE, "old.safetensors")
    records = open_checkpoint(zoo.upgrade(old)).records
    order = sorted(records, key=lambda name: records[name].offset)
    assert set(order[-2:]) == {"a0", "b"}
    assert order[:-2] == ["a", "c", "d", "e", "f", "small"]


@pytest.mark.parametrize("gone", ["a", "c", "small"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_most_of_the_data_keeps_its_place_within_a_block(
    tmp_path: Path, gone: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, f"ck.drop('{gone}', reason='no')")
    old = zoo.save(STATE, f"old{suffix}")
    found = copies(zoo, old, f"new{suffix}", monkeypatch)
    kept = [nbytes for start, target, nbytes in found if (start - target) % BLOCK == 0]
    assert sum(kept) > 0.5 * sum(nbytes for _, _, nbytes in found)
    assert same(load(tmp_path / f"new{suffix}"), {k: v for k, v in STATE.items() if k != gone})


def test_copies_that_keep_their_place_begin_at_the_border_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'z')")
    found = copies(zoo, zoo.save(STATE), "new.pt", monkeypatch)
    large = [(start, target) for start, target, nbytes in found if nbytes > BLOCK]
    assert len(large) == 6
    assert all(start % BLOCK == target % BLOCK == 0 for start, target in large)


def test_small_records_are_not_padded(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('{n}', 'n.{n}')")
    old = zoo.save({f"t{i}": torch.randn(7) for i in range(1000)})
    assert zoo.upgrade(old).stat().st_size < 1.3 * old.stat().st_size
