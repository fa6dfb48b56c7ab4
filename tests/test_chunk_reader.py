"""Chunks that were read before are taken as they were, but only from files that are still the
same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Stored
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.torch_zip import read_part
from ckmigrate.formats.tree import Tensor
from ckmigrate.loaded_tensors import loaded_tensors
from tests.dcp_folders import grid, handmade, rewrite, rows, save, whole

STATE = {
    "a": rows(torch.randn(5, 3), 2, 3),
    "b": whole(torch.randn(4)),
    "c": grid(torch.randn(3, 3), (1, 2), (2, 1)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return handmade(tmp_path / "dcp", STATE)


def values(stored: Stored) -> dict[str, torch.Tensor]:
    assert isinstance(stored.tree, dict)
    entries = {str(k): v for k, v in stored.tree.items() if isinstance(v, Tensor)}
    with loaded_tensors(stored, entries) as found:
        return {name: tensor.clone() for name, tensor in found.items()}


def read_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chunks that are read from now on, by the prefix of their storages."""
    read: list[str] = []

    def spy(region: object, size: int, prefix: str, **rest: object) -> object:
        read.append(prefix)
        return read_part(region, size, prefix, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("ckmigrate.formats.chunk_reader.read_part", spy)
    return read


def test_files_that_are_the_same_are_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_checkpoint(folder)
    read = read_parts(monkeypatch)
    again = open_checkpoint(folder, before=before)
    assert not read
    found, wanted = values(again), values(before)
    assert found.keys() == wanted.keys() == STATE.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_file_that_changed_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_checkpoint(folder)
    changed = folder / before.folder.shards[0]  # type: ignore[union-attr]
    os.utime(changed, ns=(0, 0))
    read = read_parts(monkeypatch)
    open_checkpoint(folder, before=before)
    assert read
    assert all(prefix.startswith(f"{changed.name}@") for prefix in read)


def test_damage_since_then_is_found(folder: Path) -> None:
    before = open_checkpoint(folder)
    changed = folder / before.folder.shards[0]  # type: ignore[union-attr]
    raw = bytearray(changed.read_bytes())
    raw[:64] = bytes(64)
    changed.write_bytes(raw)
    with pytest.raises(StorageError) as caught:
        open_checkpoint(folder, before=before)
    assert caught.value.code == "CKM784"


def test_a_place_that_holds_another_tensor_now_is_refused(tmp_path: Path) -> None:
    """What was read before is compared with `.metadata` like what is read now."""
    one = save(tmp_path / "one", {"a": torch.randn(2, 3)})
    other = save(tmp_path / "other", {"a": torch.randn(3, 2)})
    before = open_checkpoint(one)
    (one / ".metadata").write_bytes((other / ".metadata").read_bytes())
    with pytest.raises(StorageError) as caught:
        open_checkpoint(one, before=before)
    assert caught.value.code == "CKM784"


def test_a_file_that_has_another_number_now_keeps_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: whole(torch.randn(4)) for name in ("in first", "in second")}
    folder = handmade(tmp_path / "dcp", tensors)
    before = open_checkpoint(folder)

    def without_first(metadata: Any) -> None:
        for part in (metadata.state_dict_metadata, metadata.planner_data):
            del part["in first"]
        places = metadata.storage_data.items()
        metadata.storage_data = {key: place for key, place in places if key.fqn != "in first"}

    rewrite(folder, without_first)
    read = read_parts(monkeypatch)
    found = values(open_checkpoint(folder, before=before))
    assert not read
    assert torch.equal(found["in second"], tensors["in second"][0])


def test_places_of_two_entries_that_are_exchanged_are_refused(folder: Path) -> None:
    """Chunks that need no reading are compared with what `.metadata` says now."""
    before = open_checkpoint(folder)

    def exchange(metadata: Any) -> None:
        places = metadata.storage_data
        one, other = (next(key for key in places if key.fqn == name) for name in ("a", "b"))
        places[one], places[other] = places[other], places[one]

    rewrite(folder, exchange)
    with pytest.raises(StorageError) as caught:
        open_checkpoint(folder, before=before)
    assert caught.value.code == "CKM784"


def test_whatever_a_folder_holds_it_reads_the_same_again(tmp_path: Path) -> None:
    shared = torch.randn(4)
    noted = torch.nn.Parameter(torch.randn(3))
    noted.note = "an attribute"  # type: ignore[attr-defined]
    state = {
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.0),
        "noted": noted,
        "shared": [shared, {"again": shared}],
        "view": torch.randn(6)[1:4],
        "turned": torch.randn(3, 2).t(),
        "conjugate": torch.randn(2, dtype=torch.complex64).conj(),
        "number": 3,
    }
    folder = save(tmp_path / "dcp", state)
    before = open_checkpoint(folder)
    again = open_checkpoint(folder, before=before)
    twice = open_checkpoint(folder, before=again)
    assert repr(before.tree) == repr(again.tree) == repr(twice.tree)
    assert before.records == again.records == twice.records
    assert before.chunks.keys() == again.chunks.keys()
