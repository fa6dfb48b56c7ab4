"""Making room in front of the data, on the file systems that can and on those that cannot; and
closing it again, wherever a power cut has left the gap."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckmigrate.execute import syscalls
from ckmigrate.execute.apply import _record, _Run
from ckmigrate.execute.patch import Patch
from ckmigrate.execute.undo import pending_path, settle
from ckmigrate.patch import make_patch
from tests.fast import change, refusal, snapshot, take_back
from tests.mounts import mounted
from tests.projects import Zoo, load, same

BLOCK = 4096
SYSTEMS = {"ext4": True, "xfs": True, "btrfs": False, "tmpfs": False}
"""File systems, and whether they can insert."""
SCRIPT = "ck.rename('a', 'x')\nck.split('b', ['q', 'k'], dim=0)"


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(3), "b": torch.randn(300, 200), "c": torch.arange(50_001)}


def save(zoo: Zoo, content: dict[str, torch.Tensor], name: str) -> Path:
    """A file whose header has no room at all."""
    path = zoo.folder / name
    save_file(content, path)
    return path


@pytest.fixture(params=SYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder on a file system of its own."""
    kind = str(request.param)
    place = tmp_path / "mount"
    if kind == "tmpfs":
        with mounted(place, "-t", "tmpfs", "none"):
            yield kind, place
        return
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"there is no mkfs.{kind}")
    image = tmp_path / "image"
    image.write_bytes(b"")
    os.truncate(image, 320 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    with mounted(place, "-o", "loop", image):
        yield kind, place


def test_a_header_grows_where_the_file_system_can_and_is_refused_where_not(
    disk: tuple[str, Path],
) -> None:
    kind, place = disk
    zoo = Zoo(place / "zoo", SCRIPT)
    old = save(zoo, state(), "old.safetensors")
    before = snapshot(zoo.folder)
    if not SYSTEMS[kind]:
        error = refusal(zoo, old)
        assert error.code == "CKM776"
        assert "this file system cannot insert" in str(error.why)
        assert "without --fast" in str(error.fix)
        return
    change(zoo, old)
    q, k = torch.chunk(state()["b"], 2)
    assert same(load(old), {"x": state()["a"], "q": q, "k": k, "c": state()["c"]})
    take_back(old)
    assert snapshot(zoo.folder) == before


def test_room_that_is_there_and_torch_files_need_no_insertion(disk: tuple[str, Path]) -> None:
    _, place = disk
    zoo = Zoo(place / "zoo", "ck.rename('a', 'x')", "ck.rename('x', 'y')")
    ours = zoo.upgrade(zoo.save(state(), "first.safetensors"), "ours.safetensors", to="1")
    for path in (ours, zoo.save(state(), "old.pt")):
        before = path.read_bytes()
        change(zoo, path)
        assert "y" in load(path)
        take_back(path)
        assert path.read_bytes() == before


def started(zoo: Zoo, path: Path) -> Patch:
    """The undo record of a change is written, and nothing else."""
    patch = make_patch(zoo.prepare(path))
    assert patch.files[0].insert
    _Run(path, patch, _record(path, patch, "base"), keep=True).publish()
    assert pending_path(path).exists()
    return patch


@pytest.mark.parametrize("fill", [False, True])
def test_a_gap_that_a_power_cut_left_further_back_is_closed(
    disk: tuple[str, Path], fill: bool
) -> None:
    kind, place = disk
    if not SYSTEMS[kind]:
        pytest.skip(f"{kind} cannot insert")
    zoo = Zoo(place / "zoo", SCRIPT)
    old = save(zoo, state(), "old.safetensors")
    pristine, last = old.read_bytes(), old.stat().st_size // BLOCK
    for at in (0, 1, 2, last // 2, last - 1, last):
        patch = started(zoo, old)
        with old.open("r+b") as file:
            syscalls.insert_range(file.fileno(), patch.files[0].insert, offset=at * BLOCK)
            if fill and at == 0:
                # The header was written, or the first half of it.
                file.write(b"n" * (patch.files[0].insert // 2))
        undone = settle(old)
        assert undone is not None
        assert not undone.was_done
        assert old.read_bytes() == pristine, at
        assert not pending_path(old).exists()


def test_a_file_that_only_grew_before_the_power_cut_is_cut_off_again(
    disk: tuple[str, Path],
) -> None:
    kind, place = disk
    if not SYSTEMS[kind]:
        pytest.skip(f"{kind} cannot insert")
    zoo = Zoo(place / "zoo", SCRIPT)
    old = save(zoo, state(), "old.safetensors")
    pristine = old.read_bytes()
    patch = started(zoo, old)
    os.truncate(old, len(pristine) + patch.files[0].insert)
    assert settle(old) is not None
    assert old.read_bytes() == pristine


def test_a_collapse_that_was_cut_off_is_finished(disk: tuple[str, Path]) -> None:
    kind, place = disk
    if not SYSTEMS[kind]:
        pytest.skip(f"{kind} cannot insert")
    zoo = Zoo(place / "zoo", SCRIPT)
    old = save(zoo, state(), "old.safetensors")
    pristine = old.read_bytes()
    for at in (1, 3, 10):
        patch = started(zoo, old)
        size = patch.files[0].insert
        ((_, header),) = patch.files[0].writes
        with old.open("r+b", buffering=0) as file:
            syscalls.insert_range(file.fileno(), size, offset=0)
            file.write(header)
            # Some of what was behind the gap is in front of it again, the rest is not.
            syscalls.collapse_range(file.fileno(), size, offset=0)
            syscalls.insert_range(file.fileno(), size, offset=at * BLOCK)
        assert settle(old) is not None
        assert old.read_bytes() == pristine, at


def test_a_file_with_holes_is_not_given_another(disk: tuple[str, Path]) -> None:
    kind, place = disk
    zoo = Zoo(place / "zoo", SCRIPT)
    old = save(zoo, {**state(), "b": torch.zeros(300, 200)}, "old.safetensors")
    raw = old.read_bytes()
    with old.open("wb") as file:
        for start in range(0, len(raw), BLOCK):
            piece = raw[start : start + BLOCK]
            if piece.strip(b"\0"):
                file.seek(start)
                file.write(piece)
        file.truncate(len(raw))
    with old.open("rb") as file:
        if syscalls.hole(file.fileno())[0] == len(raw):
            pytest.skip(f"{kind} keeps no holes")
    error = refusal(zoo, old)
    assert error.code == "CKM776"
    assert "holes" in str(error.why)
