"""Migrate checkpoints that differ: some have a layer, some do not

Your old code had a switch: with it the network got a third convolution, `conv3`, without it none.
So checkpoints of one revision come in two kinds.

A script may ask for names, shapes and metadata, never for values: `if "conv3.weight" in ck`. Here
today's network always has the third convolution on a shortcut, `x + conv3(x)`; the kind without it
gets zeros, which add nothing. Where the switch stays in the code, both kinds only need the rename,
and `optional=True` says that finding nothing is fine. Without it a pattern that matches nothing is
an error, because a silent rename is how weights get lost.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

ALWAYS_SCRIPT = '''\
"""Every network has the third convolution now."""

from ckmigrate import Checkpoint

revision = "fa3b6c2167"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    if "conv3.weight" in ck:
        ck.rename("conv3.{p}", "shortcut.conv.{p}")
    else:
        ck.init("shortcut.conv.{p}", like="conv2.{p}")
'''

SWITCH_SCRIPT = '''\
"""Call the third convolution what it is, in the networks that have it."""

from ckmigrate import Checkpoint

revision = "0b4c7d3278"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("conv3.{p}", "shortcut.conv.{p}", optional=True)
'''


class Old(nn.Module):
    def __init__(self, third: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1) if third else None

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.conv2(torch.relu(self.conv1(image)))
        if self.conv3 is not None:
            x = x + self.conv3(x)
        return x


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y


class New(nn.Module):
    def __init__(self, third: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = Shortcut() if third else None

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.conv2(torch.relu(self.conv1(image)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return x


def with_third() -> Old:
    return Old(third=True)


def without_third() -> Old:
    return Old(third=False)


def new_with_third() -> New:
    return New(third=True)


def new_without_third() -> New:
    return New(third=False)


ALWAYS = Recipe(title="All get the layer", script=ALWAYS_SCRIPT, old=without_third, new=New)
SWITCH = Recipe(title="The switch stays", script=SWITCH_SCRIPT, old=with_third, new=new_with_third)
KINDS = pytest.mark.parametrize("old", [with_third, without_third])
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _switched(third: bool) -> Recipe:
    return replace(SWITCH, new=new_with_third if third else new_without_third)


@KINDS
def test_both_kinds_become_one_network_with_the_same_function(
    old: Callable[[], Old], tmp_path: Path
) -> None:
    before = trained(old(), IMAGES)
    kitchen = Kitchen(tmp_path, ALWAYS)
    result = kitchen.upgrade_by_command(kitchen.save(before))
    # What the zeros add is zero, to the bit.
    assert torch.equal(kitchen.load(result)(IMAGES), before(IMAGES))


@KINDS
def test_each_kind_has_its_own_way_back(old: Callable[[], Old], tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, ALWAYS)
    path = kitchen.save(trained(old(), IMAGES))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


@pytest.mark.parametrize("third", [True, False])
def test_with_the_switch_each_kind_fits_its_own_model(third: bool, tmp_path: Path) -> None:
    before = trained(Old(third), IMAGES)
    kitchen = Kitchen(tmp_path, _switched(third))
    path = kitchen.save(before)
    result = kitchen.upgrade(path)
    assert torch.equal(kitchen.load(result)(IMAGES), before(IMAGES))
    assert same_bytes(read(kitchen.downgrade(result)), read(path))


def test_without_optional_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    strict = SWITCH_SCRIPT.replace(", optional=True", "")
    kitchen = Kitchen(tmp_path, _switched(third=False), strict)
    error = kitchen.refusal(kitchen.save(without_third()))
    assert "CKM505" in error
    assert "no entry matches 'conv3.{p}'" in error
    assert "optional=True" in error
