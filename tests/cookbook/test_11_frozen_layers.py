"""Freeze layers

You freeze the body and train the head only. Which layers learn is a matter of the code: names,
shapes and values of a checkpoint stay what they are.

So no migration is needed, and `ckmigrate upgrade` has nothing to do: a file at the newest revision
stays there. A checkpoint is not made "newer" by a change that does not concern it. Where you want
the history to tell the two apart anyway, an upgrade that does nothing is a valid migration: every
tensor keeps its bytes and only the tag moves, to exactly the revision that ran.
"""

from pathlib import Path

import torch

from tests.cookbook.networks import SmallResNet
from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

SCRIPT = '''\
"""Freeze everything but the classifier."""

from ckmigrate import Checkpoint

revision = "1c5d8e4389"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    """Freezing is a matter of the code; the entries stay what they are."""
'''

RENAME = '''\
"""Call the classifier fc."""

from ckmigrate import Checkpoint

revision = "2d6e9f549a"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("classifier.{p}", "fc.{p}")
'''


def frozen() -> SmallResNet:
    model = SmallResNet()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    return model


RECIPE = Recipe(script=SCRIPT, old=SmallResNet, new=frozen)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_file_at_the_head_stays_there(tmp_path: Path) -> None:
    state = trained(SmallResNet(), IMAGES).state_dict()
    kitchen = Kitchen(tmp_path, RECIPE, RENAME)
    path = kitchen.upgrade(
        kitchen.save({n.replace("fc.", "classifier."): t for n, t in state.items()})
    )
    assert kitchen.pending(path) == []
    assert kitchen.revision(path) == "2d6e9f549a"
    assert same_bytes(read(path), state)


def test_an_empty_migration_moves_the_tag_and_nothing_else(tmp_path: Path) -> None:
    old = trained(SmallResNet(), IMAGES)
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(old)
    assert kitchen.pending(path) == ["1c5d8e4389"]
    result = kitchen.upgrade_by_command(path)
    assert kitchen.revision(result) == "1c5d8e4389"
    assert same_bytes(read(result), read(path))
    assert torch.equal(kitchen.load(result)(IMAGES), old(IMAGES))
    back = kitchen.downgrade(result)
    assert kitchen.revision(back) is None
    assert same_bytes(read(back), read(path))


def test_parameters_that_were_saved_frozen_stay_frozen(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, RECIPE)
    path = kitchen.save(frozen().state_dict(keep_vars=True))
    result = read(kitchen.upgrade(path))
    learning = {name for name, tensor in result.items() if tensor.requires_grad}
    assert learning == {"fc.weight", "fc.bias"}
    assert same_bytes(result, read(path))
