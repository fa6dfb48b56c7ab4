"""The example's models, checkpoint and held-out images are what its README says they are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from examples.digits import evaluate, model

OLD = tuple(name for name in evaluate.ARCHITECTURES if name != "current")


def test_architectures_are_five_old_releases_and_today() -> None:
    assert evaluate.ARCHITECTURES == ("v1_0", "v1_1", "v1_2", "v1_3", "v1_4", "current")


@pytest.mark.parametrize("architecture", evaluate.ARCHITECTURES)
def test_architecture_builds_on_the_meta_device_with_the_real_schema(architecture: str) -> None:
    with torch.device("meta"):
        meta = evaluate.build(architecture).state_dict()
    real = evaluate.build(architecture).state_dict()
    assert {tensor.device.type for tensor in meta.values()} == {"meta"}
    assert {n: (t.shape, t.dtype) for n, t in meta.items()} == {
        n: (t.shape, t.dtype) for n, t in real.items()
    }


def test_schemas_of_all_releases_differ() -> None:
    schemas = {
        frozenset((n, tuple(t.shape)) for n, t in evaluate.build(name).state_dict().items())
        for name in evaluate.ARCHITECTURES
    }
    assert len(schemas) == len(evaluate.ARCHITECTURES)


@pytest.mark.parametrize("architecture", evaluate.ARCHITECTURES)
def test_architecture_classifies_every_heldout_image(architecture: str) -> None:
    answer = evaluate.logits(evaluate.build(architecture))
    assert answer.shape == (360, 16 if architecture in ("v1_0", "v1_1") else 10)
    assert answer.isfinite().all()


@pytest.mark.parametrize("architecture", [*OLD[1:], "current"])
def test_released_checkpoint_does_not_load_into_a_later_architecture(architecture: str) -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        evaluate.load(evaluate.CHECKPOINT, architecture)


def test_released_checkpoint_reaches_the_accuracy_that_it_records() -> None:
    payload = torch.load(evaluate.CHECKPOINT, weights_only=True)
    assert set(payload) == {
        "state_dict",
        "optimizer",
        "scheduler",
        "epoch",
        "config",
        "accuracy",
    }
    measured = evaluate.accuracy(evaluate.load(evaluate.CHECKPOINT, "v1_0"))
    assert measured > 0.95
    assert measured == pytest.approx(payload["accuracy"], abs=1 / 360)


def test_released_checkpoint_has_pruned_projections_and_a_config_that_describes_it() -> None:
    payload = torch.load(evaluate.CHECKPOINT, weights_only=True)
    masks = [t for n, t in payload["state_dict"].items() if n.endswith("weight_mask")]
    assert len(masks) == payload["config"]["depth"]
    assert all(0.6 < mask.mean().item() < 0.7 for mask in masks)
    assert payload["state_dict"]["transformer.temperature"].shape == (
        payload["config"]["depth"],
        payload["config"]["heads"],
    )
    assert payload["state_dict"]["final_conv.weight"].shape[1] == payload["config"]["dim"]


def test_released_checkpoint_never_answers_with_an_unused_class() -> None:
    answer = evaluate.logits(evaluate.load(evaluate.CHECKPOINT, "v1_0"))
    assert answer.argmax(dim=1).max().item() < 10


def test_third_convolution_of_release_1_3_is_optional() -> None:
    history = importlib.import_module("examples.digits.history.v1_3")
    with_it, without = (set(history.build(conv3=flag).state_dict()) for flag in (True, False))
    assert with_it - without == {"stem.conv3.weight", "stem.conv3.bias"}
    assert without < with_it


def test_todays_model_shares_its_head_with_the_early_exit() -> None:
    digits = model.Digits()
    assert digits.backbone.early_exit.weight is digits.backbone.head.weight
    assert digits.backbone.early_exit.bias is digits.backbone.head.bias
    digits.eval()
    images, _ = evaluate.heldout()
    assert digits(images, early=True).shape == digits(images).shape
    assert not digits(images, early=True).equal(digits(images))


def test_todays_resize_is_the_identity_on_images_of_the_right_size() -> None:
    resize = model.Resize(8, 8)
    assert resize.matrix.equal(torch.eye(8))
    images, _ = evaluate.heldout()
    assert resize(images).equal(images)


def test_resize_interpolates_like_torch() -> None:
    images, _ = evaluate.heldout()
    wanted = nn.functional.interpolate(images, size=(12, 12), mode="bilinear")
    torch.testing.assert_close(model.Resize(8, 12)(images), wanted)


def test_heldout_file_holds_360_images_of_all_ten_digits() -> None:
    with safe_open(evaluate.HELDOUT, "pt") as file:
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (360, 8, 8))
    assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (360,))
    assert images.max().item() == 16
    assert torch.bincount(labels).min().item() >= 30
    assert len(torch.bincount(labels)) == 10


def test_files_in_the_repository_are_small() -> None:
    assert 500_000 < evaluate.CHECKPOINT.stat().st_size < 700_000
    assert evaluate.HELDOUT.stat().st_size < 50_000


def test_evaluate_prints_the_accuracy_of_a_checkpoint() -> None:
    command = [sys.executable, "-m", "examples.digits.evaluate", str(evaluate.CHECKPOINT)]
    done = subprocess.run(
        [*command, "--architecture", "v1_0"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = evaluate.accuracy(evaluate.load(evaluate.CHECKPOINT, "v1_0"))
    assert done.stdout == f"{expected:.4%}\n"
