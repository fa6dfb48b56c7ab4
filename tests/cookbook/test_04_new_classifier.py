"""Replace the classifier: 1000 classes become 10

You fine-tune a network of 1000 classes on 10. Everything but the last layer stays.

Where the ten classes are new, the layer starts again: drop it with a reason and give it fresh
values. Where they are ten of the thousand, keep their rows: `gather` lists the old row of every new
one, and the new model answers as the old one did for these classes. Either way 990 rows are gone,
so there is no way back, and a downgrade says so before it starts.
"""

from pathlib import Path

import torch

from tests.cookbook.networks import SmallResNet
from tests.cookbook.recipe import Kitchen, Recipe, read, same_bytes, trained

FRESH_SCRIPT = '''\
"""Start the classifier again for our ten classes."""

from ckmigrate import Checkpoint, init

revision = "58d2f4a716"
revises = None
api = 1
irreversible = "the classifier of the thousand classes is gone"


def upgrade(ck: Checkpoint) -> None:
    width = ck["fc.weight"].shape[1]
    ck.drop("fc.**", reason="our ten classes are none of the thousand")
    ck.init("fc.weight", shape=(10, width), value=init.kaiming_uniform(a=5**0.5))
    ck.init("fc.bias", shape=(10,))
'''

KEPT_SCRIPT = '''\
"""Keep the ten classes that we use, in our order."""

from ckmigrate import Checkpoint

revision = "6c90b3e1d8"
revises = None
api = 1

KEPT = (207, 208, 250, 281, 282, 285, 3, 999, 0, 340)


def upgrade(ck: Checkpoint) -> None:
    ck.gather("fc.{p}", KEPT)
'''


def thousand_classes() -> SmallResNet:
    return SmallResNet(classes=1000)


def ten_classes() -> SmallResNet:
    return SmallResNet(classes=10)


FRESH = Recipe(title="New classes", script=FRESH_SCRIPT, old=thousand_classes, new=ten_classes)
KEPT = Recipe(
    title="Ten of the thousand", script=KEPT_SCRIPT, old=thousand_classes, new=ten_classes
)
ROWS = [207, 208, 250, 281, 282, 285, 3, 999, 0, 340]
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _body(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def test_a_fresh_classifier_leaves_the_body_as_it_is(tmp_path: Path) -> None:
    old = trained(thousand_classes(), IMAGES)
    kitchen = Kitchen(tmp_path, FRESH)
    path = kitchen.save(old)
    result = kitchen.upgrade_by_command(path)
    new = kitchen.load(result)
    assert isinstance(old, SmallResNet)
    assert isinstance(new, SmallResNet)
    assert torch.equal(new.features(IMAGES), old.features(IMAGES))
    assert same_bytes(_body(read(result)), _body(read(path)))
    assert new.fc.weight.std() > 0.1
    assert not new.fc.bias.any()


def test_a_fresh_classifier_has_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, FRESH)
    result = kitchen.upgrade(kitchen.save(thousand_classes()))
    error = kitchen.refusal(result, down=True)
    assert "CKM550" in error
    assert "the classifier of the thousand classes is gone" in error


def test_kept_rows_answer_as_they_did_among_the_thousand(tmp_path: Path) -> None:
    old = trained(thousand_classes(), IMAGES)
    kitchen = Kitchen(tmp_path, KEPT)
    result = kitchen.upgrade(kitchen.save(old))
    new = kitchen.load(result)
    # A product with 10 rows may add in another order than one with 1000.
    assert torch.allclose(new(IMAGES), old(IMAGES)[:, ROWS], rtol=0, atol=1e-6)
    kept = {f"fc.{p}": old.state_dict()[f"fc.{p}"][ROWS] for p in ("weight", "bias")}
    assert same_bytes(read(result), {**old.state_dict(), **kept})


def test_kept_rows_have_no_way_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path, KEPT)
    result = kitchen.upgrade(kitchen.save(thousand_classes(), "old.safetensors"))
    error = kitchen.refusal(result, down=True)
    assert "CKM550" in error
    assert "990 of 1000 rows of 'fc.weight' are gathered nowhere" in error
