"""Add a layer whose sizes the user gives

Your images have another size than the network was trained on, so you put a learned resize layer in
front of it. Its sizes are not in the old checkpoint: they are a choice of whoever upgrades.

Such a choice is a parameter. The script reads it from `ck.params`, and it is given in
`[tool.ckmigrate.params]` or on the command line, `--param resize_from=8`. A missing parameter is an
error that names it, and sizes that do not fit today's model are refused before anything is written.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.cookbook.networks import SmallResNet
from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

SCRIPT = '''\
"""Resize the images by a learned layer before the network."""

from ckmigrate import Checkpoint, init

revision = "47a1c9e803"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    size = (ck.params["resize_to"], ck.params["resize_from"])
    ck.rename("**", "network.**")
    ck.init("resize.weight", shape=size, value=init.kaiming_uniform(a=5**0.5))
'''


class Resized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resize = nn.Linear(8, 16, bias=False)
        self.network = SmallResNet()

    def forward(self, image: Tensor) -> Tensor:
        rows = self.resize(image).mT
        logits: Tensor = self.network(self.resize(rows).mT)
        return logits


RECIPE = Recipe(
    script=SCRIPT, old=SmallResNet, new=Resized, params={"resize_from": 8, "resize_to": 16}
)
LARGE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SMALL = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_the_layer_has_the_given_sizes_and_the_network_is_unchanged(tmp_path: Path) -> None:
    old = trained(SmallResNet(), LARGE)
    kitchen = Kitchen(tmp_path, RECIPE)
    result = kitchen.upgrade_by_command(kitchen.save(old), "--no-model")
    new = kitchen.load(result)
    assert new(SMALL).shape == (4, 10)
    state = read(result)
    assert state["resize.weight"].shape == (16, 8)
    resized = torch.nn.functional.linear(SMALL, state["resize.weight"]).mT
    large = torch.nn.functional.linear(resized, state["resize.weight"]).mT
    assert torch.equal(new(SMALL), old(large))


def test_the_new_layer_is_the_same_on_every_machine(tmp_path: Path) -> None:
    results = []
    for folder in ("one", "other"):
        kitchen = Kitchen(tmp_path / folder, RECIPE)
        results.append(read(kitchen.upgrade(kitchen.save(SmallResNet())))["resize.weight"])
    assert torch.equal(*results)
    assert results[0].abs().max() <= 8**-0.5
    assert results[0].std() > 0.1


def test_a_missing_parameter_is_named(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, replace(RECIPE, params={"resize_from": 8}))
    error = kitchen.refusal(kitchen.save(SmallResNet()))
    assert "CKM534" in error
    assert "--param resize_to=" in error


def test_sizes_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, replace(RECIPE, params={"resize_from": 12, "resize_to": 16}))
    error = kitchen.refusal(kitchen.save(SmallResNet()))
    assert "CKM601" in error
    assert "resize.weight is [16,12], the model wants [16,8]" in error


def test_the_way_back_gives_the_same_bytes(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(trained(SmallResNet(), LARGE))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))
