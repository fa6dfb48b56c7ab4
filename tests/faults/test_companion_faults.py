"""An upgrade in place of a folder with training state in it: every system call fails, or is the
last one. Weights and state are both the old ones or both the new ones, never one of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import carry_out
from tests.faults.sweeps import claim_of, misclaimed, sweep_errors, sweep_kills, undisturbed
from tests.projects import Zoo
from tests.shards import digest
from tests.training_folders import accelerated

RENAME = "ck.rename('0.{p}', 'first.{p}')"
STATE = "custom_checkpoint_0.pkl"

Content = tuple[set[str], set[str], bool]

OLD: Content = ({"0.weight", "0.bias"}, {"0.weight", "0.bias"}, False)
NEW: Content = ({"first.weight", "first.bias"}, {"first.weight", "first.bias"}, True)
BACKUP = [True, pytest.param(False, marks=pytest.mark.slow)]
AVERAGES = {(3, 4): 12.0, (3,): 3.0}


def content(path: Path) -> Content:
    """The names of the weights, those of their averages, and whether there is a tag."""
    state = torch.load(path / STATE, weights_only=True)
    assert torch.equal(state["noise"], torch.arange(9.0))
    assert {tuple(t.shape): float(t.sum()) for t in state["ema"].values()} == AVERAGES
    tag = open_checkpoint(path).tag
    return set(load_file(path / "model.safetensors")), set(state["ema"]), tag is not None


@dataclass(frozen=True)
class World:
    folder: Path
    zoo: Zoo
    backup: bool
    is_within: bool = False

    @property
    def target(self) -> Path:
        return self.folder / "state"

    def build(self) -> World:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))
        average = {name: torch.ones_like(t) for name, t in model.state_dict().items()}
        registered = {"ema": average, "noise": torch.arange(9.0)}
        accelerated(self.target, model, [], registered)
        return self

    def run(self) -> None:
        remove_stale_folders(self.target)
        prepared = self.zoo.prepare(self.target)
        if prepared.has_work:
            backup = self.folder / "state.bak-1" if self.backup else None
            carry_out(prepared, Destination(self.target, in_place=True, folder=True, backup=backup))

    def problems(self, claim: str) -> Iterator[str]:
        yield from misclaimed(claim, content(self.target), old=OLD, new=NEW)
        if claim_of(self) != "done" or content(self.target) != NEW:
            yield "the next run fails"
        for path in self.folder.iterdir():
            if path != self.target and not path.name.startswith("state.bak-"):
                yield f"{path.name} is left"
        if self.backup and OLD not in map(content, self.folder.glob("state.bak-*")):
            yield "the old version is lost"


def worlds(place: Path, *, backup: bool) -> Callable[[int], World]:
    zoo = Zoo(place / "zoo", RENAME)
    return lambda call: World(place / str(call), zoo, backup)


@pytest.mark.parametrize("backup", BACKUP)
def test_a_kill_at_every_call_leaves_weights_and_state_that_belong_together(
    place: Path, backup: bool
) -> None:
    assert sweep_kills(worlds(place, backup=backup)) == []


@pytest.mark.parametrize("backup", BACKUP)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_call_leaves_weights_and_state_that_belong_together(
    place: Path, code: int, backup: bool
) -> None:
    assert sweep_errors(worlds(place, backup=backup), lambda _: code) == []


def test_where_folders_cannot_change_places_nothing_changes(place: Path) -> None:
    world = World(place / "w", Zoo(place / "zoo", RENAME), backup=True, is_within=True).build()
    before = digest(world.target)
    syscalls.before = undisturbed(world)
    try:
        with pytest.raises(StorageError) as caught:
            world.run()
    finally:
        syscalls.before = None
    assert (caught.value.code, caught.value.details) == ("CKM770", (STATE,))
    assert digest(world.target) == before
    assert os.listdir(world.folder) == ["state"]
