"""Make pruning permanent

You pruned with `torch.nn.utils.prune`, which keeps every pruned weight twice: `weight_orig` and a
`weight_mask`. Your final model is the plain one, with the zeros in its `weight`.

This needs new numbers, so it is a computation: `compute` takes a group of entries, gives them to
your function as tensors, and puts what it returns in their place. Planning needs shapes only and
runs the function on torch's meta device, without values. The values under the mask are gone
afterwards, so there is no way back unless you name an `inverse`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.cookbook.recipe import Kitchen, Recipe, read, trained

SCRIPT = '''\
"""Multiply the masks into the weights."""

from ckmigrate import Checkpoint

revision = "3e7f0a65ab"
revises = None
api = 1


def masked(weight, mask):
    return weight * mask


def upgrade(ck: Checkpoint) -> None:
    ck.compute(["{layer:**}.weight_orig", "{layer:**}.weight_mask"], "{layer:**}.weight", masked)
'''


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 10))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.norm(self.conv(image))))
        return logits


def pruned() -> Net:
    model = Net()
    for layer in (model.conv, model.head[1]):
        prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    return model


RECIPE = Recipe(script=SCRIPT, old=pruned, new=Net)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_plain_model_computes_what_the_pruned_one_did(tmp_path: Path) -> None:
    old = trained(pruned(), IMAGES)
    kitchen = Kitchen(tmp_path, RECIPE)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    # The pruned layer multiplies by its mask before every use: the same product, to the bit.
    assert torch.equal(kitchen.load(result)(IMAGES), old(IMAGES))
    state = read(result)
    zeros = (state["conv.weight"] == 0).sum() / state["conv.weight"].numel()
    assert zeros == 0.5
    for name in ("norm.running_mean", "norm.running_var", "conv.bias", "head.1.bias"):
        assert torch.equal(state[name], old.state_dict()[name])


def test_there_is_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    error = kitchen.refusal(kitchen.upgrade(kitchen.save(pruned(), "old.safetensors")), down=True)
    assert "CKM550" in error
    for layer in ("conv", "head.1"):
        assert f"line 15, compute: compute masked of '{layer}.weight_orig' has no inverse=" in error


def test_a_layer_without_its_mask_is_an_error(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    state = pruned().state_dict()
    del state["conv.weight_mask"]
    error = kitchen.refusal(kitchen.save(state))
    assert "layer=conv has conv.weight_orig but lacks conv.weight_mask" in error
