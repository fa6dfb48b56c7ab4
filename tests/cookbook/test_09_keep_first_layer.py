"""Keep the first layer only

You reuse what `fc1` learned for another task, and `fc2` starts again with the same shape.

Same name, same shape: a strict load would take the old values without a word. So the change is one
of meaning, and only a migration can say it: drop the old values with the reason, and initialise new
ones. The tag then tells a checkpoint of the old task from one of the new.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, read, trained

SCRIPT = '''\
"""Begin the second task: keep the features, learn the output again."""

from ckmigrate import Checkpoint, init

revision = "e92a5b1056"
revises = None
api = 1
irreversible = "the output layer of the first task is gone"


def upgrade(ck: Checkpoint) -> None:
    weight, bias = ck["fc2.weight"], ck["fc2.bias"]
    ck.drop("fc2.**", reason="it was learned for the first task")
    ck.init("fc2.weight", shape=weight.shape, value=init.xavier_uniform())
    ck.init("fc2.bias", shape=bias.shape)
'''


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 20)
        self.fc2 = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return logits


RECIPE = Recipe(script=SCRIPT, old=Net, new=Net)
INPUT = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))


def test_only_the_first_layer_keeps_its_values(tmp_path: Path) -> None:
    old = trained(Net(), INPUT)
    kitchen = Kitchen(tmp_path, RECIPE)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    new = kitchen.load(result)
    assert isinstance(old, Net)
    assert isinstance(new, Net)
    assert torch.equal(new.fc1(INPUT), old.fc1(INPUT))
    assert not torch.equal(new.fc2.weight, old.fc2.weight)
    assert new.fc2.weight.abs().max() <= (6 / 22) ** 0.5
    assert not new.fc2.bias.any()


def test_an_upgraded_file_is_not_reset_again(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    first = kitchen.upgrade(kitchen.save(trained(Net(), INPUT)))
    assert kitchen.pending(first) == []


def test_there_is_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    error = kitchen.refusal(kitchen.upgrade(kitchen.save(Net())), down=True)
    assert "CKM550" in error
    assert "the output layer of the first task is gone" in error
    assert read(tmp_path / "new.pt").keys() == Net().state_dict().keys()
