"""Move from torch's MultiheadAttention to your own projections, or back

`nn.MultiheadAttention` keeps query, key and value in `in_proj_weight` and `in_proj_bias`, which are
parameters of the module itself and not of a layer in it. Your own attention has three linear
layers.

A capture may be a part of a segment: `in_proj_{p}` takes both, and `p` becomes a segment of its own
in the new name.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

SEPARATE_SCRIPT = '''\
"""Replace torch's attention by our own."""

from ckmigrate import Checkpoint

revision = "61ab3d98de"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.split("attn.in_proj_{p}", "attn.{query,key,value}.{p}", dim=0)
    ck.rename("attn.out_proj.{p}", "attn.out.{p}")
'''

FUSED_SCRIPT = '''\
"""Use torch's attention instead of our own."""

from ckmigrate import Checkpoint

revision = "72bc4ea9ef"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.concat("attn.{query,key,value}.{p}", "attn.in_proj_{p}", dim=0)
    ck.rename("attn.out.{p}", "attn.out_proj.{p}")
'''


class OwnAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = [
            layer(x).view(batch, length, 4, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, 16))
        return y


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.attn(x, x, x, need_weights=False)[0])
        return y


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = OwnAttention()
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.attn(x))
        return y


SEPARATE = Recipe(title="To your own attention", script=SEPARATE_SCRIPT, old=Torch, new=Own)
FUSED = Recipe(title="To torch's attention", script=FUSED_SCRIPT, old=Own, new=Torch)
BOTH = pytest.mark.parametrize("recipe", [SEPARATE, FUSED], ids=["own", "torch"])
INPUT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


@BOTH
def test_both_attentions_compute_the_same_function(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), INPUT)
    kitchen = Kitchen(tmp_path, recipe)
    new = kitchen.load(kitchen.upgrade_by_command(kitchen.save(old)))
    # One product with 48 rows and three with 16 may add in another order.
    assert alike(new, old, INPUT)


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT))
    result = kitchen.upgrade(path)
    assert not same_bytes(read(result), read(path))
    assert same_bytes(read(kitchen.downgrade(result)), read(path))
