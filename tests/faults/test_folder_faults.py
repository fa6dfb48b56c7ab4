"""Every system call of a folder's commit fails, or is the last one: the name holds the old folder
or the new one, whole. The same sweep runs over a writer that is wrong on purpose."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination
from ckmigrate.execute.commit_folder import commit_folder
from ckmigrate.execute.folder_image import FolderImage, NewFile
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.base import FileIdentity, FileImage, Slot, StoredFile
from ckmigrate.formats.shard_index import render_index
from tests.faults.sweeps import claim_of, misclaimed, sweep_errors, sweep_kills, undisturbed
from tests.shards import digest

INDEX = "model.safetensors.index.json"
OLD = {"a": b"old a" * 50, "b": b"old b" * 50}
NEW = {"a": b"new a" * 70, "b": b"new b" * 70, "c": b"new c"}
OTHERS = {"config.json": b"{}", "sub/x.txt": b"x"}
CASES = ["new", "swap", "swap, no backup", "within", "within, no backup"]

Content = dict[str, bytes]


def name_of(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def files_of(weights: Mapping[str, bytes]) -> dict[str, bytes]:
    """A folder: one "tensor" in each shard, an index, and what is beside them."""
    names = {key: name_of(n, len(weights)) for n, key in enumerate(weights, start=1)}
    shards = {names[key]: data for key, data in weights.items()}
    return {**shards, INDEX: render_index(names, {}, None)}


def content(path: Path) -> Content | None:
    """What a reader finds: by the index, and beside it; None where there is no folder."""
    if not path.is_dir():
        return None
    names = json.loads((path / INDEX).read_bytes())["weight_map"]
    found = {key: (path / name).read_bytes() for key, name in names.items()}
    return found | {name: (path / name).read_bytes() for name in OTHERS}


@dataclass(frozen=True)
class World:
    folder: Path
    case: str

    @property
    def source(self) -> Path:
        return self.folder / "model"

    @property
    def target(self) -> Path:
        return self.folder / "out" if self.case == "new" else self.source

    @property
    def backups(self) -> list[Path]:
        return sorted(self.folder.glob("model.bak-1*"))

    @property
    def keeps(self) -> bool:
        return self.case in ("swap", "within")

    @property
    def is_within(self) -> bool:
        return self.case.startswith("within")

    @property
    def before(self) -> Content | None:
        return None if self.case == "new" else {**OLD, **OTHERS}

    def build(self) -> World:
        for name, data in {**files_of(OLD), **OTHERS}.items():
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_bytes(data)
        return self

    def run(self) -> None:
        if self.target.exists():
            # As the command does once it has the lock, before it reads the folder.
            remove_stale_folders(self.target)
        backup = self.folder / "model.bak-1" if self.keeps else None
        in_place = self.case != "new"
        shards = tuple(name for name in files_of(NEW) if name != INDEX)
        files = {name: new_file(data) for name, data in files_of(NEW).items()}
        carried = {name: self.source / name for name in OTHERS}
        commit_folder(
            Destination(self.target, in_place=in_place, folder=True, backup=backup),
            FolderImage(files, shards, INDEX, carried),
            source=self.source,
            sources=tuple(
                StoredFile(path, FileIdentity.of(path.stat()))
                for path in sorted(self.source.rglob("*"))
                if path.is_file()
            ),
            verify=verify,
        )

    def problems(self, claim: str) -> Iterator[str]:
        new = {**NEW, **OTHERS}
        found = content(self.target)
        yield from misclaimed(claim, found, old=self.before, new=new)
        if claim == "failed" and self.backups:
            yield "failure was claimed and there is a backup"
        if claim in ("done", "failed"):
            yield from strangers(self)
        if self.case == "new" and content(self.source) != {**OLD, **OTHERS}:
            yield "the source was touched"
        yield from after_next_run(self, is_new=found == new)


def worlds(place: Path, case: str) -> Callable[[int], World]:
    return lambda call: World(place / str(call), case)


def new_file(data: bytes) -> NewFile:
    def fill(fd: int) -> Mapping[str, int]:
        syscalls.pwrite(fd, data, offset=0)
        return {}

    return NewFile(FileImage(len(data), (), {"": Slot(0, len(data))}), fill)


def verify(path: Path) -> None:
    assert content(path) == {**NEW, **OTHERS}


def after_next_run(world: World, *, is_new: bool) -> Iterator[str]:
    syscalls.before = undisturbed(world)
    try:
        world.run()
    except StorageError as error:
        if not (world.case == "new" and is_new and error.code == "CKM751"):
            yield f"the next run fails: {error}"
    finally:
        syscalls.before = None
    yield from strangers(world)
    kept = [content(path) for path in world.backups]
    if world.keeps and {**OLD, **OTHERS} not in kept:
        yield "the old version is lost"


def strangers(world: World) -> Iterator[str]:
    expected = {world.source, world.target, *world.backups}
    for path in set(world.folder.iterdir()) - expected:
        yield f"{path.name} is left"
    for folder in (path for path in expected if path.is_dir()):
        names = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
        for name in set(os.listdir(folder)) - {*names, INDEX, "config.json", "sub"}:
            yield f"{folder.name}/{name} is left"


@pytest.mark.parametrize("case", CASES)
def test_a_kill_at_every_call_leaves_old_or_new(place: Path, case: str) -> None:
    assert sweep_kills(worlds(place, case)) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_call_leaves_old_or_new(place: Path, case: str, number: int) -> None:
    assert sweep_errors(worlds(place, case), lambda _: number) == []


def test_the_sweep_finds_a_writer_that_removes_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removing(one: Path, other: Path) -> bool:
        aside = other.with_name("aside")
        syscalls.rename(other, aside)
        syscalls.rename(one, other)
        os.rename(aside, one)
        return True

    monkeypatch.setattr(syscalls, "exchange", removing)
    with pytest.raises((AssertionError, FileNotFoundError)):
        assert sweep_kills(worlds(place, "swap")) == []


def test_the_old_folder_stays_under_the_name_of_the_backup(tmp_path: Path) -> None:
    for case in ("swap", "within"):
        world = World(tmp_path / case, case).build()
        before = digest(world.source)
        assert claim_of(world) == "done"
        assert [digest(path) for path in world.backups] == [before]


def test_from_within_no_name_is_used_again(tmp_path: Path) -> None:
    world = World(tmp_path / "w", "within, no backup").build()
    old = set(os.listdir(world.source))
    assert claim_of(world) == "done"
    shards = set(os.listdir(world.source)) - {INDEX, "config.json", "sub"}
    assert shards == {f"model-v2-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)}
    assert not shards & old
    assert claim_of(world) == "done"
    assert name_of(1, 3).replace("model-", "model-v3-") in os.listdir(world.source)


def test_a_folder_that_cannot_change_places_keeps_what_is_beside_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "w", "within").build()
    before = digest(world.source)
    monkeypatch.setitem(OTHERS, "new.txt", b"")
    (tmp_path / "new.txt").write_bytes(b"")
    (world.source / "new.txt").symlink_to(tmp_path / "new.txt")
    (world.source / "more.txt").write_bytes(b"")
    syscalls.before = undisturbed(world)
    try:
        with pytest.raises(StorageError) as caught:
            world.run()
    finally:
        syscalls.before = None
    assert caught.value.code == "CKM770"
    assert caught.value.details == ("more.txt",)
    (world.source / "new.txt").unlink()
    (world.source / "more.txt").unlink()
    assert digest(world.source) == before
    assert os.listdir(world.folder) == ["model"]
