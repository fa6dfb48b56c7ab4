"""Insert a layer before the output

You had `fc1` 10→20 and `fc2` 20→2. Now `fc2` is 20→16 and a new `fc3` 16→2 gives the answer. So the
name `fc2` stays and its shape changes, which no loader would forgive.

The old two rows of `fc2` can stay as the first two of sixteen, with `fc3` picking them out: an
identity of two rows. With no activation between the two layers the model computes what it computed
before. Where there is one, or where you would rather begin again, drop the old `fc2` and initialise
both.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

SAME_SCRIPT = '''\
"""Insert a layer of sixteen units; the last one picks the two old outputs for now."""

from ckmigrate import Checkpoint, init

revision = "c7083f9e34"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.resize("fc2.weight", (16, 20))
    ck.resize("fc2.bias", (16,))
    ck.init("fc3.weight", shape=(2, 16), value=init.eye())
    ck.init("fc3.bias", shape=(2,))
'''

FRESH_SCRIPT = '''\
"""Insert a layer of sixteen units, and learn both output layers again."""

from ckmigrate import Checkpoint, init

revision = "d8194a0f45"
revises = None
api = 1
irreversible = "the old output layer is gone"


def upgrade(ck: Checkpoint) -> None:
    ck.drop("fc2.**", reason="it gave the answer; now it is a hidden layer")
    for name, shape in {"fc2": (16, 20), "fc3": (2, 16)}.items():
        ck.init(f"{name}.weight", shape=shape, value=init.kaiming_uniform(a=5**0.5))
        ck.init(f"{name}.bias", shape=shape[:1])
'''


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.fc2 = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits


class New(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.fc2 = nn.Linear(20, 16)
        self.fc3 = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc3(self.fc2(torch.relu(self.fc1(x))))
        return logits


SAME = Recipe(title="Same function", script=SAME_SCRIPT, old=Old, new=New)
FRESH = Recipe(title="A fresh start", script=FRESH_SCRIPT, old=Old, new=New)
INPUT = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))


def test_picking_the_old_outputs_keeps_the_function(tmp_path: Path) -> None:
    old = trained(Old(), INPUT)
    kitchen = Kitchen(tmp_path, SAME)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    # The product with sixteen rows may add in another order than the one with two.
    assert alike(kitchen.load(result), old, INPUT)
    state = read(result)
    assert torch.equal(state["fc2.weight"][:2], old.state_dict()["fc2.weight"])
    assert not state["fc2.weight"][2:].any()


def test_picking_the_old_outputs_has_a_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, SAME)
    path = kitchen.save(trained(Old(), INPUT), "old.safetensors")
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_fresh_start_keeps_the_first_layer(tmp_path: Path) -> None:
    old = trained(Old(), INPUT)
    kitchen = Kitchen(tmp_path, FRESH)
    result = kitchen.upgrade(kitchen.save(old))
    assert kitchen.load(result)(INPUT).isfinite().all()
    state = read(result)
    for name in ("fc1.weight", "fc1.bias"):
        assert torch.equal(state[name], old.state_dict()[name])
    assert "the old output layer is gone" in kitchen.refusal(result, down=True)


def test_a_script_that_forgets_the_new_layer_is_refused(tmp_path: Path) -> None:
    forgetful = "".join(line for line in SAME_SCRIPT.splitlines(keepends=True) if "fc3" not in line)
    kitchen = Kitchen(tmp_path, SAME, forgetful)
    error = kitchen.refusal(kitchen.save(Old()))
    assert "CKM601" in error
    assert "fc3.weight [2,16] float32 — the model has it, the result does not" in error
