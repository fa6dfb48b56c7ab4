"""Add a layer after the old head

You added a layer behind the classifier and kept the old head under a second name, for an early
exit. Your old checkpoints have the head once and nothing behind it.

A layer that starts as the identity changes no output, so the upgraded model answers exactly as the
old one did until you train it. Whether the second name is tied or copied follows your model: where
both names are one module, tie them; where each has weights of its own, copy.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

TIED_SCRIPT = '''\
"""Refine the logits, and let the early exit use the same head."""

from ckmigrate import Checkpoint, init

revision = "1f0a6c2b91"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.tie("head.{p}", "early_exit.{p}")
    ck.init("refine.weight", shape=(10, 10), value=init.eye())
    ck.init("refine.bias", shape=(10,))
'''

COPIED_SCRIPT = '''\
"""Refine the logits, and give the early exit a head of its own."""

from ckmigrate import Checkpoint, init

revision = "2e41d07c5a"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.copy("head.{p}", "early_exit.{p}")
    ck.init("refine.weight", shape=(10, 10), value=init.eye())
    ck.init("refine.bias", shape=(10,))
'''


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


class Refined(Old):
    def __init__(self) -> None:
        super().__init__()
        self.early_exit = nn.Linear(32, 10)
        self.refine = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.refine(super().forward(x))
        return logits


class RefinedTied(Refined):
    def __init__(self) -> None:
        super().__init__()
        self.early_exit = self.head


TIED = Recipe(title="One head, two names", script=TIED_SCRIPT, old=Old, new=RefinedTied)
COPIED = Recipe(title="Two heads", script=COPIED_SCRIPT, old=Old, new=Refined)
INPUT = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recipe", [TIED, COPIED], ids=["tied", "copied"])
def test_the_new_model_answers_as_the_old_one(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(Old(), INPUT)
    kitchen = Kitchen(tmp_path, recipe)
    result = kitchen.upgrade_by_command(kitchen.save(old), "--no-model")
    new = kitchen.load(result)
    # Multiplying by the identity and adding zero is exact in floating point.
    assert torch.equal(new(INPUT), old(INPUT))
    kept = {name: tensor for name, tensor in read(result).items() if name in old.state_dict()}
    assert same_bytes(kept, old.state_dict())
    assert torch.equal(read(result)["early_exit.weight"], old.state_dict()["head.weight"])


def test_tied_names_share_one_storage_in_the_file(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, TIED)
    state = read(kitchen.upgrade(kitchen.save(trained(Old(), INPUT))))
    assert state["early_exit.weight"].data_ptr() == state["head.weight"].data_ptr()


def test_copies_are_independent_in_the_file(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, COPIED)
    state = read(kitchen.upgrade(kitchen.save(trained(Old(), INPUT))))
    assert state["early_exit.weight"].data_ptr() != state["head.weight"].data_ptr()


@pytest.mark.parametrize("recipe", [TIED, COPIED], ids=["tied", "copied"])
@pytest.mark.parametrize("name", ["old.pt", "old.safetensors"])
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, name: str, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(Old(), INPUT), name)
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))
