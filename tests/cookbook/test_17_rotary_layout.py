"""Change the layout of rotary embeddings

Rotary embeddings turn pairs of numbers. Some code pairs neighbours (0, 1), (2, 3), …; other code
pairs the halves of a head, 0 with 4 and 1 with 5 for eight numbers. You moved from the first to the
second.

The rows of the query and key projections must move with it, inside each head. Names and shapes stay
the same, so nothing but the outputs would show that it was forgotten. `rearrange` reads the
notation of einops; only the sizes that cannot be inferred are given. The value projection is not
rotated.

Where names and shapes cannot tell, a script may say what must hold of the values:
`ckmigrate upgrade --verify full` calls its `verify(old, new)` with the tensors of both files, and a
result that fails is never written.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

HALVES_SCRIPT = '''\
"""Rotate the halves of a head instead of neighbours."""

from ckmigrate import Checkpoint

revision = "a5ef71dc23"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    heads = ck.params["heads"]
    for part in ("q", "k"):
        ck.rearrange(f"attn.{part}.weight", "(h pair two) c -> (h two pair) c", h=heads, two=2)
        ck.rearrange(f"attn.{part}.bias", "(h pair two) -> (h two pair)", h=heads, two=2)
'''

NEIGHBOURS_SCRIPT = '''\
"""Rotate neighbours instead of the halves of a head."""

from ckmigrate import Checkpoint

revision = "b60f82ed34"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    heads = ck.params["heads"]
    for part in ("q", "k"):
        ck.rearrange(f"attn.{part}.weight", "(h two pair) c -> (h pair two) c", h=heads, two=2)
        ck.rearrange(f"attn.{part}.bias", "(h two pair) -> (h pair two)", h=heads, two=2)
'''

CHECKED_SCRIPT = (
    HALVES_SCRIPT
    + """

def verify(old, new) -> None:
    # Numbers 0 and 1 of the first head were a pair; now the pair is 0 and 4.
    for name in ("attn.q.weight", "attn.k.weight"):
        for before, after in {0: 0, 1: 4, 2: 1, 3: 5}.items():
            assert new[name][after].equal(old[name][before]), name
"""
).replace("a5ef71dc23", "0c54d73289")

HEADS, SIZE = 4, 8


def angles(length: int) -> Tensor:
    frequencies = 100.0 ** (-torch.arange(SIZE // 2) / (SIZE // 2))
    return torch.arange(length)[:, None] * frequencies


def rotate_neighbours(x: Tensor) -> Tensor:
    a = angles(x.shape[-2])
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos())
    return torch.stack(turned, dim=-1).flatten(-2)


def rotate_halves(x: Tensor) -> Tensor:
    a = angles(x.shape[-2])
    first, second = x.chunk(2, dim=-1)
    turned = (first * a.cos() - second * a.sin(), first * a.sin() + second * a.cos())
    return torch.cat(turned, dim=-1)


class Attention(nn.Module):
    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.rotate = rotate_halves if halves else rotate_neighbours
        self.q, self.k, self.v, self.out = (nn.Linear(32, HEADS * SIZE) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, HEADS, SIZE).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return y


class Model(nn.Module):
    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.attn = Attention(halves)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attn(x)
        return y


def neighbours() -> Model:
    return Model(halves=False)


def halves() -> Model:
    return Model(halves=True)


PARAMS = {"heads": HEADS}
HALVES = Recipe(
    title="Neighbours to halves", script=HALVES_SCRIPT, old=neighbours, new=halves, params=PARAMS
)
NEIGHBOURS = Recipe(
    title="Halves to neighbours",
    script=NEIGHBOURS_SCRIPT,
    old=halves,
    new=neighbours,
    params=PARAMS,
)
CHECKED = Recipe(
    title="With a check on values",
    script=CHECKED_SCRIPT,
    old=neighbours,
    new=halves,
    params=PARAMS,
)
BOTH = pytest.mark.parametrize("recipe", [HALVES, NEIGHBOURS], ids=["halves", "neighbours"])
INPUT = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))


@BOTH
def test_the_outputs_are_the_same(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), INPUT)
    kitchen = Kitchen(tmp_path, recipe)
    new = kitchen.load(kitchen.upgrade_by_command(kitchen.save(old), "--no-model"))
    # The scores add the same products in another order.
    assert alike(new, old, INPUT)


@BOTH
def test_without_the_migration_the_outputs_differ(recipe: Recipe, tmp_path: Path) -> None:
    old = trained(recipe.old(), INPUT)
    forgetful = recipe.new()
    forgetful.load_state_dict(old.state_dict(), strict=True)
    assert not torch.allclose(forgetful(INPUT), old(INPUT), atol=0.01)


@BOTH
def test_rows_move_inside_their_heads_and_the_rest_stays(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT), "old.safetensors")
    before, after = read(path), read(kitchen.upgrade(path))
    for name, tensor in before.items():
        is_moved = name.startswith(("attn.q.", "attn.k."))
        assert torch.equal(after[name], tensor) is not is_moved
        assert torch.equal(_sorted_rows(after[name]), _sorted_rows(tensor))


def _sorted_rows(tensor: Tensor) -> Tensor:
    by_head = tensor.view(HEADS, SIZE, -1)
    order = by_head[:, :, 0].argsort(dim=1)
    return torch.stack([head[rows] for head, rows in zip(by_head, order, strict=True)])


@BOTH
def test_the_way_back_gives_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, recipe)
    path = kitchen.save(trained(recipe.old(), INPUT))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_check_on_values_accepts_the_right_layout(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, CHECKED)
    before = trained(neighbours(), INPUT)
    path = kitchen.save(before)
    result = kitchen.upgrade_by_command(path, "--no-model", "--verify", "full")
    assert alike(kitchen.load(result), before, INPUT)


def test_a_check_on_values_refuses_a_layout_that_only_has_the_right_shape(tmp_path: Path) -> None:
    wrong = CHECKED_SCRIPT.replace("-> (h two pair) c", "-> (two h pair) c")
    kitchen = Kitchen(tmp_path, CHECKED, wrong)
    error = kitchen.refusal(kitchen.save(trained(neighbours(), INPUT)), full_verify=True)
    assert "CKM604" in error
    assert "attn.q.weight" in error
    assert not (tmp_path / "new.pt").exists()
