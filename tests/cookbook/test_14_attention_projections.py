"""Separate a fused attention projection, or fuse it again

Query, key and value came from one matrix, `qkv.weight`, and now each has its own, because adapters
or tensor parallelism want it so; or the other way round.

`{q,k,v}` is an ordered list of alternatives: a split gives its first part to the first name. The
parts are equal unless you say `sizes`; with two query heads to one key head they are not. The
sizes are recorded, so the way back joins 16, 8 and 8 rows, not thirds.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

SPLIT_SCRIPT = '''\
"""Give query, key and value a projection each."""

from ckmigrate import Checkpoint

revision = "4f801b76bc"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    # Two query heads share a key and a value head.
    rows, width = ck["blocks.0.qkv.weight"].shape
    shared = (rows - width) // 2
    ck.split("blocks.{i}.qkv.{p}", "blocks.{i}.{q,k,v}.{p}", dim=0, sizes=(width, shared, shared))
'''

FUSE_SCRIPT = '''\
"""Compute query, key and value by one matrix."""

from ckmigrate import Checkpoint

revision = "509a2c87cd"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.concat("blocks.{i}.{q,k,v}.{p}", "blocks.{i}.qkv.{p}", dim=0)
'''

SIZES = (16, 8, 8)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of four query heads to two key and value heads, of four numbers each."""
    batch, length, _ = q.shape
    queries, keys, values = (x.view(batch, length, -1, 4).transpose(1, 2) for x in (q, k, v))
    mixed = nn.functional.scaled_dot_product_attention(
        queries, keys.repeat_interleave(2, dim=1), values.repeat_interleave(2, dim=1)
    )
    return mixed.transpose(1, 2).reshape(batch, length, -1)


class FusedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, sum(SIZES))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.out(attend(*self.qkv(self.norm(x)).split(SIZES, dim=-1)))
        return x + mixed


class SeparateBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k, self.v = (nn.Linear(16, size) for size in SIZES)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        mixed: Tensor = self.out(attend(self.q(y), self.k(y), self.v(y)))
        return x + mixed


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(FusedBlock() for _ in range(12)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class Separate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(SeparateBlock() for _ in range(12)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


SPLIT = Recipe(title="Separate", script=SPLIT_SCRIPT, old=Fused, new=Separate)
FUSE = Recipe(title="Fuse", script=FUSE_SCRIPT, old=Separate, new=Fused)
BOTH = pytest.mark.parametrize("recipe", [SPLIT, FUSE], ids=["separate", "fuse"])
INPUT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


@BOTH
def test_both_forms_compute_the_same_function(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), INPUT)
    kitchen = Kitchen(tmp_path, recipe)
    new = kitchen.load(kitchen.upgrade_by_command(kitchen.save(old), "--no-model"))
    # Products of other sizes may add in another order, which twelve blocks carry along.
    assert alike(new, old, INPUT)


@BOTH
def test_every_row_is_kept_in_its_block(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT), "old.safetensors")
    before, after = read(path), read(kitchen.upgrade(path))
    fused, separate = (before, after) if recipe is SPLIT else (after, before)
    for block in range(12):
        for part in ("weight", "bias"):
            parts = [separate[f"blocks.{block}.{name}.{part}"] for name in "qkv"]
            assert torch.equal(torch.cat(parts), fused[f"blocks.{block}.qkv.{part}"])


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_split_into_thirds_is_refused_where_rows_do_not_divide(tmp_path: Path) -> None:
    naive = SPLIT_SCRIPT.replace(", sizes=(width, shared, shared)", "")
    kitchen = Kitchen(tmp_path, SPLIT, naive)
    error = kitchen.refusal(kitchen.save(Fused()))
    assert "CKM521" in error
    assert "cannot split 'blocks.0.qkv.bias' along dim 0 into 3 equal parts" in error
