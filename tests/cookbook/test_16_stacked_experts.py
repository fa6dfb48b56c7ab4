"""Stack the experts of a mixture, or keep them apart

Each of twelve experts was a module of its own, `experts.0.up.weight` to `experts.11.up.weight`. Now
one tensor holds them all, so that one batched product serves every expert; or the other way round.

The capture that the new name lacks is the index: `experts.{e:int}.{layer}.{p}` to
`experts.{layer}.{p}`. Whole numbers sort as numbers, so expert 10 comes after 9 and not after 1,
and a missing expert is an error rather than a shorter stack.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

STACK_SCRIPT = '''\
"""Keep all experts in one tensor per layer."""

from ckmigrate import Checkpoint

revision = "83cd5fba01"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.stack("experts.{e:int}.{layer}.{p}", "experts.{layer}.{p}", count=12)
'''

UNSTACK_SCRIPT = '''\
"""Give every expert a module of its own."""

from ckmigrate import Checkpoint

revision = "94de60cb12"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.unstack("experts.{layer}.{p}", "experts.{e:int}.{layer}.{p}", count=12)
'''

COUNT = 12


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x)))
        return y


class StackedLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(COUNT, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(COUNT, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT + self.bias[:, None]


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, COUNT)
        self.experts = nn.ModuleList(Expert() for _ in range(COUNT))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        answers = torch.stack([expert(x) for expert in self.experts])
        return torch.einsum("ne,end->nd", shares, answers)


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, COUNT)
        self.experts = nn.ModuleDict({"up": StackedLinear(8, 16), "down": StackedLinear(16, 8)})

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        inner = torch.relu(self.experts["up"](x.expand(COUNT, *x.shape)))
        return torch.einsum("ne,end->nd", shares, self.experts["down"](inner))


STACK = Recipe(title="Stack", script=STACK_SCRIPT, old=Apart, new=Stacked)
UNSTACK = Recipe(title="Keep apart", script=UNSTACK_SCRIPT, old=Stacked, new=Apart)
BOTH = pytest.mark.parametrize("recipe", [STACK, UNSTACK], ids=["stack", "unstack"])
INPUT = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


@BOTH
def test_both_forms_compute_the_same_function(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), INPUT)
    kitchen = Kitchen(tmp_path, recipe)
    new = kitchen.load(kitchen.upgrade_by_command(kitchen.save(old), "--no-model"))
    # A batched product may add in another order than twelve single ones.
    assert alike(new, old, INPUT)


def test_every_expert_stands_at_its_number(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, STACK)
    path = kitchen.save(trained(Apart(), INPUT), "old.safetensors")
    apart, stacked = read(path), read(kitchen.upgrade(path))
    for expert in range(COUNT):
        for name in ("up.weight", "up.bias", "down.weight", "down.bias"):
            assert torch.equal(
                stacked[f"experts.{name}"][expert], apart[f"experts.{expert}.{name}"]
            )


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_missing_expert_is_an_error(tmp_path: Path) -> None:
    state = {n: t for n, t in Apart().state_dict().items() if not n.startswith("experts.7.")}
    kitchen = Kitchen(tmp_path, STACK)
    error = kitchen.refusal(kitchen.save(state))
    assert "at: 0001_recipe.py, line 11: stack" in error
    assert "7" in error
