"""Turn a 1×1 convolution head into a pool and a linear layer

Your segmentation-style head was a 1×1 convolution whose map was averaged at the end; now you
average first and classify with a linear layer: `final_conv = Sequential(pool, Linear)`.

A 1×1 convolution is a linear layer on every pixel, so its weight `[10, 256, 1, 1]` is the linear
layer's `[10, 256]`, and averaging before or after it is the same. The entries move one name deeper,
because the linear layer is the second module of the sequence.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

SCRIPT = '''\
"""Classify the averaged features with a linear layer."""

from ckmigrate import Checkpoint

revision = "94c7d1e05b"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.reshape("final_conv.weight", lambda t: t.shape[:2])
    ck.rename("final_conv.{p}", "final_conv.1.{p}")
'''


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU())
        self.final_conv: nn.Module = nn.Conv2d(256, 10, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.final_conv(self.stem(image))
        return scores.mean(dim=(2, 3))


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class New(Old):
    def __init__(self) -> None:
        super().__init__()
        self.final_conv = nn.Sequential(Pool(), nn.Linear(256, 10))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.final_conv(self.stem(image))
        return scores


RECIPE = Recipe(script=SCRIPT, old=Old, new=New)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_linear_head_computes_the_same_function(tmp_path: Path) -> None:
    old = trained(Old(), IMAGES)
    kitchen = Kitchen(tmp_path, RECIPE)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    # The mean of 64 products is not, to the last bit, the product of the mean.
    assert alike(kitchen.load(result), old, IMAGES)
    weight = read(result)["final_conv.1.weight"]
    assert weight.shape == (10, 256)
    assert torch.equal(weight.flatten(), old.state_dict()["final_conv.weight"].flatten())


def test_a_script_that_forgets_the_reshape_is_refused(tmp_path: Path) -> None:
    lines = SCRIPT.splitlines(keepends=True)
    forgetful = "".join(line for line in lines if "reshape" not in line)
    kitchen = Kitchen(tmp_path, RECIPE, forgetful)
    error = kitchen.refusal(kitchen.save(Old()))
    assert "CKM601" in error
    assert "final_conv.1.weight is [10,256,1,1], the model wants [10,256]" in error


def test_the_way_back_gives_the_same_bytes(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(trained(Old(), IMAGES), "old.safetensors")
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))
