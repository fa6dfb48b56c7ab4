"""Enlarge an inner convolution from 3×3 to 5×5

You widened the kernel of the second convolution of a block, `layer2.0.conv2`. Padding grows with
it, from 1 to 2.

The old kernel in the middle of the new one, with zeros around it, is the same function: training
goes on from where it was. Where you would rather start the layer again, drop it and initialise it.
The batch normalisation behind it keeps its statistics either way, which suit the zero-padded kernel
only.
"""

from pathlib import Path

import torch

from tests.cookbook.networks import SmallResNet
from tests.cookbook.recipe import Kitchen, Recipe, alike, read, same_bytes, trained

PADDED_SCRIPT = '''\
"""Put the 3x3 kernel into the middle of a 5x5 one."""

from ckmigrate import Checkpoint

revision = "71e8a2c49f"
revises = None
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.resize("layer2.{i}.conv2.weight", lambda t: (*t.shape[:2], 5, 5), anchor="center")
'''

FRESH_SCRIPT = '''\
"""Start the 5x5 convolution from fresh values."""

from ckmigrate import Checkpoint, init

revision = "83d05b17ac"
revises = None
api = 1
irreversible = "the 3x3 kernel is gone"


def upgrade(ck: Checkpoint) -> None:
    outputs, inputs, _, _ = ck["layer2.0.conv2.weight"].shape
    ck.drop("layer2.0.conv2.weight", reason="the 5x5 convolution learns from the start")
    ck.init(
        "layer2.0.conv2.weight",
        shape=(outputs, inputs, 5, 5),
        value=init.kaiming_normal(),
    )
'''


def wide_kernel() -> SmallResNet:
    return SmallResNet(kernel=5)


PADDED = Recipe(title="Same function", script=PADDED_SCRIPT, old=SmallResNet, new=wide_kernel)
FRESH = Recipe(title="A fresh start", script=FRESH_SCRIPT, old=SmallResNet, new=wide_kernel)
NAME = "layer2.0.conv2.weight"
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_padded_kernel_computes_the_same_function(tmp_path: Path) -> None:
    old = trained(SmallResNet(), IMAGES)
    kitchen = Kitchen(tmp_path, PADDED)
    result = kitchen.upgrade_by_command(kitchen.save(old))
    # The zeros change which of its algorithms torch takes, and with it the order of additions.
    assert alike(kitchen.load(result), old, IMAGES)
    kernel = read(result)[NAME]
    assert torch.equal(kernel[:, :, 1:4, 1:4], old.state_dict()[NAME])
    assert torch.count_nonzero(kernel) == torch.count_nonzero(old.state_dict()[NAME])


def test_the_padded_kernel_has_a_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, PADDED)
    path = kitchen.save(trained(SmallResNet(), IMAGES))
    assert same_bytes(read(kitchen.downgrade(kitchen.upgrade(path))), read(path))


def test_a_fresh_kernel_replaces_one_entry_only(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, FRESH)
    path = kitchen.save(trained(SmallResNet(), IMAGES))
    result = kitchen.upgrade(path)
    assert kitchen.load(result)(IMAGES).isfinite().all()
    before, after = read(path), read(result)
    assert after.pop(NAME).shape == (8, 8, 5, 5)
    del before[NAME]
    assert same_bytes(after, before)


def test_a_fresh_kernel_has_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, FRESH)
    error = kitchen.refusal(kitchen.upgrade(kitchen.save(SmallResNet())), down=True)
    assert "CKM550" in error
    assert "the 3x3 kernel is gone" in error
