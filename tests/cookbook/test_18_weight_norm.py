"""Move to the parametrized weight norm, or fold it into the weight

`torch.nn.utils.weight_norm` is deprecated; it kept a weight as `weight_g` (its length) and
`weight_v` (its direction). `torch.nn.utils.parametrizations.weight_norm` keeps the same two tensors
as `parametrizations.weight.original0` and `original1`.

So the move is two renames, and either direction works. If you only use the model and no longer
train it, compute the weight once instead: that gives new numbers and has no way back, because a
weight does not tell which length and direction it was kept as.
"""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as deprecated_weight_norm

from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

PARAMETRIZED_SCRIPT = '''\
"""Use the weight norm of torch 2."""

from ckmigrate import Checkpoint

revision = "c71093fe45"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("{layer:**}.weight_g", "{layer:**}.parametrizations.weight.original0")
    ck.rename("{layer:**}.weight_v", "{layer:**}.parametrizations.weight.original1")
'''

DEPRECATED_SCRIPT = '''\
"""Use the weight norm of torch 1."""

from ckmigrate import Checkpoint

revision = "d821a40f56"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("{layer:**}.parametrizations.weight.original0", "{layer:**}.weight_g")
    ck.rename("{layer:**}.parametrizations.weight.original1", "{layer:**}.weight_v")
'''

FOLDED_SCRIPT = '''\
"""Fold the weight norm into the weight."""

from ckmigrate import Checkpoint

revision = "e932b51067"
revises = None
api = 1


def folded(length, direction):
    norm = direction.flatten(1).norm(dim=1)
    return direction * (length / norm.view_as(length))


def upgrade(ck: Checkpoint) -> None:
    ck.compute(["{layer:**}.weight_g", "{layer:**}.weight_v"], "{layer:**}.weight", folded)
'''


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 10))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.conv(image)))
        return logits


def deprecated() -> Plain:
    model = Plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for layer in (model.conv, model.head[1]):
            deprecated_weight_norm(layer)
    return model


def parametrized() -> Plain:
    model = Plain()
    for layer in (model.conv, model.head[1]):
        parametrizations.weight_norm(layer)
    return model


PARAMETRIZED = Recipe(
    title="To the parametrized form", script=PARAMETRIZED_SCRIPT, old=deprecated, new=parametrized
)
DEPRECATED = Recipe(
    title="To the deprecated form", script=DEPRECATED_SCRIPT, old=parametrized, new=deprecated
)
FOLDED = Recipe(title="Into the weight", script=FOLDED_SCRIPT, old=deprecated, new=Plain)
BOTH = pytest.mark.parametrize(
    "recipe", [PARAMETRIZED, DEPRECATED], ids=["parametrized", "deprecated"]
)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@BOTH
def test_both_forms_compute_the_same_function(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), IMAGES)
    kitchen = Kitchen(tmp_path, recipe)
    new = kitchen.load(kitchen.upgrade(kitchen.save(old)))
    # Both call the same kernel on the same two tensors.
    assert torch.equal(new(IMAGES), old(IMAGES))


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), IMAGES), "old.safetensors")
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_the_folded_weight_computes_the_same_function(tmp_path: Path) -> None:
    old = trained(deprecated(), IMAGES)
    kitchen = Kitchen(tmp_path, FOLDED)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    # The weight is rounded once to single precision; the fused kernel adds in another order.
    assert torch.allclose(kitchen.load(result)(IMAGES), old(IMAGES), rtol=0, atol=1e-6)
    assert torch.equal(read(result)["conv.bias"], old.state_dict()["conv.bias"])


def test_the_folded_weight_has_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, FOLDED)
    error = kitchen.refusal(kitchen.upgrade(kitchen.save(deprecated())), down=True)
    assert "CKM550" in error
    assert "compute folded of 'conv.weight_g' has no inverse=" in error
