"""An upgrade of a DCP folder in place: every system call fails, or is the last one. The name holds
the old checkpoint or the new one, with its tag; where folders cannot change places as well."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ckmigrate.execute.commit import Destination
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor as Node
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.migrate import carry_out
from tests.dcp_folders import handmade, rows, whole
from tests.faults.sweeps import claim_of, misclaimed, sweep_errors, sweep_kills
from tests.projects import Zoo

SCRIPTS = {
    "rename": "ck.rename('a', 'z')",
    "split": "ck.split('a', ['q', 'k'], dim=0)\nck.init('n', shape=(2,), value=init.ones())",
}
SWEEPS = [
    pytest.param("rename", False, id="rename-within"),
    pytest.param("split", True, id="split-swap", marks=pytest.mark.slow),
    pytest.param("rename", True, id="rename-swap", marks=pytest.mark.slow),
    pytest.param("split", False, id="split-within", marks=pytest.mark.slow),
]
BACKUP = [True, pytest.param(False, marks=pytest.mark.slow)]

Content = tuple[dict[str, bytes], bool]


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(6, 4), "b": torch.randn(5)}


def wanted(kind: str) -> dict[str, torch.Tensor]:
    old = state()
    if kind == "rename":
        return {"z": old["a"], "b": old["b"]}
    q, k = old["a"].chunk(2)
    return {"q": q, "k": k, "b": old["b"], "n": torch.ones(2)}


def raw(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: bytes(t.contiguous().numpy().tobytes()) for name, t in tensors.items()}


def content(path: Path) -> Content:
    """Every tensor, and whether there is a tag."""
    stored = open_checkpoint(path)
    assert isinstance(stored.tree, dict)
    entries = {str(k): v for k, v in stored.tree.items() if isinstance(v, Node)}
    with loaded_tensors(stored, entries) as found:
        return raw(found), stored.tag is not None


@dataclass(frozen=True)
class World:
    folder: Path
    zoo: Zoo
    kind: str
    exchanges: bool
    backup: bool

    @property
    def is_within(self) -> bool:
        return not self.exchanges

    @property
    def target(self) -> Path:
        return self.folder / "model"

    @property
    def old(self) -> Content:
        return raw(state()), False

    @property
    def new(self) -> Content:
        return raw(wanted(self.kind)), True

    def build(self) -> World:
        old = state()
        self.folder.mkdir()
        handmade(self.target, {"a": rows(old["a"], 4, 2), "b": whole(old["b"])})
        (self.target / "notes.txt").write_text("kept")
        return self

    def run(self) -> None:
        remove_stale_folders(self.target)
        prepared = self.zoo.prepare(self.target)
        if prepared.has_work:
            backup = self.folder / "model.bak-1" if self.backup else None
            carry_out(prepared, Destination(self.target, in_place=True, folder=True, backup=backup))

    def problems(self, claim: str) -> Iterator[str]:
        yield from misclaimed(claim, content(self.target), old=self.old, new=self.new)
        if claim == "failed" and (self.target / "ckmigrate.json").exists():
            yield "failure was claimed and a tag is left"
        yield from self.after_next_run()

    def after_next_run(self) -> Iterator[str]:
        claim = claim_of(self)
        if claim != "done" or content(self.target) != self.new:
            yield f"the next run: {claim}"
        for path in self.folder.iterdir():
            if path != self.target and not path.name.startswith("model.bak-"):
                yield f"{path.name} is left"
        known = {".metadata", "ckmigrate.json", "notes.txt"}
        for name in set(os.listdir(self.target)) - known:
            if name not in named(self.target):
                yield f"{name} is left in the folder"
        if (self.target / "notes.txt").read_text() != "kept":
            yield "what is beside is lost"
        if self.backup and self.old not in map(content, self.folder.glob("model.bak-*")):
            yield "the old version is lost"


def named(path: Path) -> tuple[str, ...]:
    stored = open_checkpoint(path)
    assert stored.dcp is not None
    return stored.dcp.files


def worlds(place: Path, kind: str, *, exchanges: bool, backup: bool) -> Callable[[int], World]:
    zoo = Zoo(place / "zoo", SCRIPTS[kind])
    return lambda call: World(place / str(call), zoo, kind, exchanges, backup)


@pytest.mark.parametrize("backup", BACKUP)
@pytest.mark.parametrize(("kind", "exchanges"), SWEEPS)
def test_a_kill_at_every_call_leaves_old_or_new(
    place: Path, kind: str, exchanges: bool, backup: bool
) -> None:
    made = worlds(place, kind, exchanges=exchanges, backup=backup)
    assert sweep_kills(made) == []


@pytest.mark.parametrize("backup", BACKUP)
@pytest.mark.parametrize(("kind", "exchanges"), SWEEPS)
def test_an_error_at_every_call_leaves_old_or_new(
    place: Path, kind: str, exchanges: bool, backup: bool
) -> None:
    made = worlds(place, kind, exchanges=exchanges, backup=backup)
    assert sweep_errors(made, lambda call: (errno.EIO, errno.ENOSPC)[call % 2]) == []


def test_from_within_a_tag_that_is_there_is_replaced(place: Path) -> None:
    zoo = Zoo(place / "zoo", SCRIPTS["rename"])
    world = World(place / "w", zoo, "rename", exchanges=False, backup=False).build()
    assert claim_of(world) == "done"
    zoo.add(2, SCRIPTS["split"].replace("'a'", "'z'"))
    assert claim_of(world) == "done"
    assert content(world.target) == (raw(wanted("split")), True)
    assert (world.target / "ckmigrate.json").read_text().count('"metadata"') == 1


def test_from_within_only_what_changes_is_replaced(place: Path) -> None:
    zoo = Zoo(place / "zoo", SCRIPTS["rename"])
    world = World(place / "w", zoo, "rename", exchanges=False, backup=False).build()
    data = {name: (world.target / name).stat().st_ino for name in named(world.target)}
    assert claim_of(world) == "done"
    assert {name: (world.target / name).stat().st_ino for name in data} == data
    assert content(world.target) == world.new
