"""Widen a hidden layer

You grew `fc1` from 10→20 to 10→30, so `fc2` takes 30 inputs where it took 20. The old part of both
stays where it was.

New rows of `fc1` start with fresh values: initialise them as an entry of their own, and join it to
the old one. If the new columns of `fc2` are zero, nothing reads the new units yet, and the model
computes what it computed before; training takes it from there. If they start with fresh values as
well, the old part is still there to the bit, but the output changes.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

SAME_SCRIPT = '''\
"""Widen the hidden layer to 30; nothing reads the new units yet."""

from ckmigrate import Checkpoint, init

revision = "a5e6037d12"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.init("fc1.more.weight", shape=(10, 10), value=init.kaiming_uniform(a=5**0.5))
    ck.init("fc1.more.bias", shape=(10,))
    ck.concat(["fc1.{p}", "fc1.more.{p}"], "fc1.{p}")
    ck.resize("fc2.weight", (2, 30), fill=0)
'''

FRESH_SCRIPT = '''\
"""Widen the hidden layer to 30, with fresh values on both sides of the new units."""

from ckmigrate import Checkpoint, init

revision = "b6f7148e23"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.init("fc1.more.weight", shape=(10, 10), value=init.kaiming_uniform(a=5**0.5))
    ck.init("fc1.more.bias", shape=(10,))
    ck.concat(["fc1.{p}", "fc1.more.{p}"], "fc1.{p}")
    ck.init("fc2.more.weight", shape=(2, 10), value=init.kaiming_uniform(a=5**0.5))
    ck.concat(["fc2.weight", "fc2.more.weight"], "fc2.weight", dim=1)
'''


class Net(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, hidden)
        self.fc2 = nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits


def narrow() -> Net:
    return Net(20)


def wide() -> Net:
    return Net(30)


SAME = Recipe(title="Same function", script=SAME_SCRIPT, old=narrow, new=wide)
FRESH = Recipe(title="Fresh values on both sides", script=FRESH_SCRIPT, old=narrow, new=wide)
BOTH = pytest.mark.parametrize("recipe", [SAME, FRESH], ids=["same", "fresh"])
INPUT = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))


@BOTH
def test_the_old_part_is_kept_to_the_bit(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(narrow(), INPUT).state_dict()
    kitchen = Kitchen(tmp_path, recipe)
    new = read(kitchen.upgrade_by_command(kitchen.save(old), "--no-model"))
    kept = {
        "fc1.weight": new["fc1.weight"][:20],
        "fc1.bias": new["fc1.bias"][:20],
        "fc2.weight": new["fc2.weight"][:, :20],
        "fc2.bias": new["fc2.bias"],
    }
    assert same_bytes(kept, old)
    assert new["fc1.weight"][20:].std() > 0.1


def test_columns_of_zeros_keep_the_function(tmp_path: Path) -> None:
    old = trained(narrow(), INPUT)
    kitchen = Kitchen(tmp_path, SAME)
    new = kitchen.load(kitchen.upgrade(kitchen.save(old)))
    # Ten more products, all zero, may change the order of additions.
    assert alike(new, old, INPUT)


def test_fresh_columns_change_the_function(tmp_path: Path) -> None:
    old = trained(narrow(), INPUT)
    kitchen = Kitchen(tmp_path, FRESH)
    new = kitchen.load(kitchen.upgrade(kitchen.save(old)))
    assert not torch.allclose(new(INPUT), old(INPUT), atol=1e-3)


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(narrow(), INPUT))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))
