"""Migrate checkpoints of wrapped models

Somebody saved the state dict of the wrapper: `DistributedDataParallel` puts `module.` before every
name, `torch.compile` puts `_orig_mod.`, and with both on top of each other both stand there, in
either order.

Scripts do not know. The prefix is taken off when a checkpoint is read and put back when it is
written, so one history serves wrapped and bare files alike. `--unwrap` leaves it off for good.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from tests.cookbook.networks import SmallResNet
from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

SCRIPT = '''\
"""Call the classifier head, as the other models do."""

from ckmigrate import Checkpoint

revision = "fa43c62178"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("fc.{p}", "head.{p}")
'''


class New(SmallResNet):
    def __init__(self) -> None:
        super().__init__()
        self.head = self.fc
        del self.fc

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(image))
        return logits


RECIPE = Recipe(script=SCRIPT, old=SmallResNet, new=New)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")


@pytest.fixture(scope="module", autouse=True)
def one_process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def wrapped(model: nn.Module, prefix: str) -> nn.Module:
    """The model in the wrappers that give this prefix; the outermost comes first in it."""
    for name in reversed(prefix.split(".")):
        if name == "module":
            model = nn.parallel.DistributedDataParallel(model)
        elif name == "_orig_mod":
            compiled = torch.compile(model, backend="eager")
            assert isinstance(compiled, nn.Module)
            model = compiled
    return model


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_is_put_back(prefix: str, tmp_path: Path) -> None:
    old = trained(SmallResNet(), IMAGES)
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(wrapped(old, prefix))
    assert all(name.startswith(prefix) for name in read(path))
    state = read(kitchen.upgrade(path))
    assert all(name.startswith(prefix) for name in state)
    today = wrapped(New(), prefix)
    today.load_state_dict(state, strict=True)
    bare = New()
    bare.load_state_dict({name.removeprefix(prefix): t for name, t in state.items()})
    assert torch.equal(bare.eval()(IMAGES), old(IMAGES))


UNWRAPPED = [(prefix, "old.pt") for prefix in PREFIXES]
UNWRAPPED += [(prefix, "old.safetensors") for prefix in PREFIXES[-2:]]


@pytest.mark.parametrize(("prefix", "name"), UNWRAPPED)
def test_unwrap_writes_the_bare_names(prefix: str, name: str, tmp_path: Path) -> None:
    old = trained(SmallResNet(), IMAGES)
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(wrapped(old, prefix), name)
    result = kitchen.upgrade_by_command(path, "--no-model", "--unwrap")
    # A strict load into the bare model.
    assert torch.equal(kitchen.load(result)(IMAGES), old(IMAGES))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["old.pt", "old.safetensors"])
def test_the_way_back_gives_the_same_bytes(prefix: str, name: str, tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(wrapped(trained(SmallResNet(), IMAGES), prefix), name)
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_layer_that_only_begins_like_a_wrapper_is_no_wrapper(tmp_path: Path) -> None:
    state = {f"module_list.{n}": t for n, t in SmallResNet().state_dict().items()}
    kitchen = Kitchen(tmp_path, RECIPE)
    error = kitchen.refusal(kitchen.save(state))
    assert "no entry matches 'fc.{p}'" in error
    assert "module_list.fc." in error
