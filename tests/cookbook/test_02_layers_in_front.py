"""Put layers in front, and everything old under a prefix

You wrapped the old network: a convolution that makes three channels of one, a linear layer over the
columns, and behind them the pretrained network as a submodule. Your old checkpoints have its names
without a prefix.

`**` stands for any number of name segments, so one rename moves every entry, whatever the network
looks like. It is one simultaneous step: names that are renamed are not renamed again. A convolution
of ones and a linear layer that is the identity leave a grey image as it is, so the new model
answers exactly as the old one did on the same image in three equal channels.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.networks import SmallResNet, SmallVgg
from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

SCRIPT = '''\
"""Accept grey images: a convolution and a linear layer before the pretrained network."""

from ckmigrate import Checkpoint, init

revision = "3b7e52f0d4"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("**", "resnet.**")
    ck.init("colour.weight", shape=(3, 1, 1, 1), value=init.ones())
    ck.init("colour.bias", shape=(3,))
    ck.init("columns.weight", shape=(16, 16), value=init.eye())
    ck.init("columns.bias", shape=(16,))
'''


class Front(nn.Module):
    """A convolution and a linear layer; a subclass adds the pretrained network behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(1, 3, 1)
        self.columns = nn.Linear(16, 16)

    def pretrained(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.pretrained()(self.columns(self.colour(image)))
        return logits


class GreyResNet(Front):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = SmallResNet()

    def pretrained(self) -> nn.Module:
        return self.resnet


class GreyVgg(Front):
    def __init__(self) -> None:
        super().__init__()
        self.vgg = SmallVgg()

    def pretrained(self) -> nn.Module:
        return self.vgg


class GreyLayers(Front):
    def __init__(self) -> None:
        super().__init__()
        self.pretrained_layers = SmallResNet()

    def pretrained(self) -> nn.Module:
        return self.pretrained_layers


class GreyFeatures(Front):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(SmallVgg())

    def pretrained(self) -> nn.Module:
        return self.features


def _under(prefix: str) -> str:
    return SCRIPT.replace("resnet.**", f"{prefix}.**")


RESNET = Recipe(script=SCRIPT, old=SmallResNet, new=GreyResNet)
UNDER = {
    "resnet": RESNET,
    "vgg": Recipe(script=_under("vgg"), old=SmallVgg, new=GreyVgg),
    "pretrained_layers": Recipe(
        script=_under("pretrained_layers"), old=SmallResNet, new=GreyLayers
    ),
    "features.0": Recipe(script=_under("features.0"), old=SmallVgg, new=GreyFeatures),
}
GREY = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
COLOUR = GREY.expand(4, 3, 16, 16).contiguous()


@pytest.mark.parametrize("prefix", UNDER)
def test_the_wrapped_network_answers_as_it_did_alone(prefix: str, tmp_path: Path) -> None:
    recipe = UNDER[prefix]
    old = trained(recipe.old(), COLOUR)
    kitchen = Kitchen(tmp_path, recipe)
    result = kitchen.upgrade_by_command(kitchen.save(old), "--no-model")
    # One times a value, plus zero, is exact: both networks see the same bits.
    assert torch.equal(kitchen.load(result)(GREY), old(COLOUR))
    kept = {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in read(result).items()
        if name.startswith(f"{prefix}.")
    }
    assert same_bytes(kept, old.state_dict())


@pytest.mark.parametrize("prefix", UNDER)
def test_the_way_back_gives_the_same_bytes(prefix: str, tmp_path: Path) -> None:
    recipe = UNDER[prefix]
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), COLOUR), "old.safetensors")
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_model_under_another_prefix_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    mistaken = Recipe(script=_under("backbone"), old=SmallResNet, new=GreyResNet)
    kitchen = Kitchen(tmp_path, mistaken)
    path = kitchen.save(SmallResNet())
    error = kitchen.refusal(path)
    assert "CKM601" in error
    assert "perhaps renamed from backbone." in error
    assert list(tmp_path.glob("new*")) == []
