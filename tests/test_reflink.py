"""File systems that share blocks: an upgrade that only renames takes no space of its own.

Needs root, loop devices and the tools of the file system; skipped where one of them is missing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckmigrate.execute import syscalls
from tests.mounts import mounted
from tests.projects import Zoo, load, same
from tests.shards import content
from tests.shards import folder as save_folder

MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
FIEMAP, SHARED = 0xC020660B, 0x2000
STATE = {f"layers.{i}.w": torch.randn(700 + i, 1024) for i in range(4)} | {"bias": torch.randn(8)}
RENAME = "ck.rename('layers.**', 'blocks.**')"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()[:200]}")


@pytest.fixture(scope="module", params=MAKE)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    make: Sequence[str] = MAKE[request.param]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    run(*make, image)
    with mounted(folder / "disk", "-o", "loop", image) as place:
        yield place
    image.unlink()


@pytest.fixture
def zoo(disk: Path) -> Iterator[Zoo]:
    folder = disk / "zoo"
    try:
        yield Zoo(folder, RENAME)
    finally:
        shutil.rmtree(folder)


def shared_bytes(path: Path) -> int:
    """Bytes of a file whose blocks belong to another file too, as the file system says."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        question = bytearray(struct.pack("=QQIIII", 0, 2**64 - 1, 0, 0, 200, 0) + bytes(56 * 200))
        fcntl.ioctl(fd, FIEMAP, question)
    finally:
        os.close(fd)
    (count,) = struct.unpack_from("=I", question, 20)
    extents = (struct.unpack_from("=QQQQQIIII", question, 32 + 56 * i) for i in range(count))
    return sum(extent[2] for extent in extents if extent[5] & SHARED)


def expected() -> dict[str, torch.Tensor]:
    return {name.replace("layers", "blocks"): tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize("header", [0, 1, 999, 5000])
def test_a_safetensors_file_shares_its_data(zoo: Zoo, header: int) -> None:
    old = zoo.folder / "old.safetensors"
    save_file(STATE, old, metadata={"about": "x" * header})
    new = zoo.upgrade(old)
    assert same(load(new), expected())
    assert shared_bytes(new) > 0.98 * old.stat().st_size


def used(folder: Path) -> int:
    """Bytes of the file system that are taken."""
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_shared_takes_no_room_beforehand(zoo: Zoo, suffix: str) -> None:
    """Blocks that were allocated for the file must not stay taken, as btrfs would have it."""
    large = {f"layers.{i}.w": torch.randn(4000, 1024) for i in range(4)}
    old = zoo.save(large, f"old{suffix}")
    before = used(zoo.folder)
    new = zoo.upgrade(old)
    assert used(zoo.folder) - before < 0.1 * old.stat().st_size
    assert same(load(new), {n.replace("layers", "blocks"): t for n, t in large.items()})


def test_a_torch_file_shares_its_large_records(zoo: Zoo) -> None:
    old = zoo.save(STATE)
    new = zoo.upgrade(old)
    assert same(load(new), expected())
    assert shared_bytes(new) > 0.98 * old.stat().st_size


def test_what_is_split_goes_on_sharing(zoo: Zoo) -> None:
    zoo.add(2, "ck.split('blocks.0.w', ['q', 'k'], sizes=[300, 400])\nck.drop('bias', reason='no')")
    for suffix in (".pt", ".safetensors"):
        old = zoo.save(STATE, f"old{suffix}")
        new = zoo.upgrade(old)
        assert shared_bytes(new) > 0.98 * old.stat().st_size


def test_a_folder_shares_its_shards(zoo: Zoo) -> None:
    names = sorted(STATE)
    parts = [{name: STATE[name] for name in part} for part in (names[:3], names[3:])]
    new = zoo.upgrade(save_folder(zoo.folder / "model", parts), "new")
    assert same(content(new), expected())
    shards = sorted(new.glob("*.safetensors"))
    assert len(shards) == 2
    assert all(shared_bytes(shard) > 0.98 * shard.stat().st_size for shard in shards)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_target_on_another_file_system_is_copied(zoo: Zoo, suffix: str, tmp_path: Path) -> None:
    old = zoo.save(STATE, f"old{suffix}")
    zoo.run(old, tmp_path / f"new{suffix}")
    assert same(load(tmp_path / f"new{suffix}"), expected())


@pytest.mark.parametrize("answer", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EPERM, 0])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_kernel_that_cannot_copy_ranges_is_done_without(
    tmp_path: Path, answer: int, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0: some file systems answer that nothing was copied."""
    asked: list[int] = []

    def refuse(*arguments: int) -> int:
        asked.append(answer)
        if answer:
            raise OSError(answer, os.strerror(answer))
        return 0

    monkeypatch.setattr(os, "copy_file_range", refuse)
    zoo = Zoo(tmp_path, RENAME)
    assert same(load(zoo.upgrade(zoo.save(STATE, f"old{suffix}"))), expected())
    assert asked


def test_an_error_while_a_range_is_copied_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(OSError, match="Input/output error"):
        syscalls.copy_range(0, 1, source_offset=0, target_offset=0, nbytes=1)
