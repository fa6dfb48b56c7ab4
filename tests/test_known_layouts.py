"""The table of ways of saving, and what a project adds to it, on files that torch wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckmigrate.errors import StorageError, UsageError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.training.known_layouts import KNOWN_LAYOUTS, known_layout
from ckmigrate.training.layouts import Layout, find_weights
from tests.projects import Zoo


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"net.a": torch.randn(3, 2), "net.b": torch.randn(4)}


def adam() -> dict[str, Any]:
    moments = {0: {"exp_avg": torch.ones(3, 2)}, 1: {"exp_avg": torch.ones(4)}}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}


def find(tmp_path: Path, content: object, **options: Any) -> Layout:
    torch.save(content, tmp_path / "file.pt")
    return find_weights(open_checkpoint(tmp_path / "file.pt"), **options)


def kinds(layout: Layout) -> dict[str, str]:
    return {".".join(map(str, o.path)): o.kind for o in layout.training_state}


def test_every_key_has_one_meaning_in_a_layout() -> None:
    for known in KNOWN_LAYOUTS:
        parts = (known.weights, known.seldom, known.optimizers, known.copies, known.settings)
        keys = [key for part in (*parts, known.kept) for key in part]
        assert len(keys) == len(set(keys)), known.name
        assert known.mark is None or known.mark in known.kept
    assert KNOWN_LAYOUTS[-1].mark is None
    assert known_layout({}) is KNOWN_LAYOUTS[-1]


def test_a_lightning_checkpoint_is_known_by_its_version(tmp_path: Path) -> None:
    content = {
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state(),
        "model": state(1),
        "optimizer_states": [adam()],
    }
    layout = find(tmp_path, content)
    assert layout.path == ("state_dict",)
    assert layout.saved_as == "Lightning checkpoint 2.6.6"
    assert kinds(layout) == {"model": "copy", "optimizer_states.0": "optimizer"}
    del content["pytorch-lightning_version"]
    with pytest.raises(StorageError) as caught:
        find(tmp_path, content)
    assert caught.value.code == "CKM731"


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "params", "network", "weights"])
@pytest.mark.parametrize("copy", ["ema", "model_ema", "params_ema", "swa_state_dict", "shadow"])
def test_the_names_that_people_use_are_known(tmp_path: Path, key: str, copy: str) -> None:
    layout = find(tmp_path, {copy: state(1), key: state(), "optimizer": adam(), "epoch": 3})
    assert layout.path == (key,)
    assert layout.saved_as == "training checkpoint"
    assert kinds(layout) == {copy: "copy", "optimizer": "optimizer"}


def test_a_usual_key_goes_before_a_seldom_one(tmp_path: Path) -> None:
    assert find(tmp_path, {"net": state(1), "model": state()}).path == ("model",)


def test_a_flat_file_is_a_state_dict(tmp_path: Path) -> None:
    assert find(tmp_path, state()).saved_as == "state dict"


@pytest.mark.parametrize("key", ["optimizer", "mine.exp_avg", "mine.momentum"])
def test_moments_by_the_names_of_weights_are_no_copy_of_them(tmp_path: Path, key: str) -> None:
    first, _, second = key.partition(".")
    content = {"model": state(), first: {second: state(1)} if second else state(1)}
    assert kinds(find(tmp_path, content)) == {key: "optimizer"}
    zoo = Zoo(tmp_path / "zoo", "ck.rename('net.**', 'body.**')")
    error = zoo.refusal(zoo.save(content))
    assert "--optimizer drop" in (error.fix or "")


# --- what a project says ----------------------------------------------------------------------


def test_a_project_names_places_of_its_own(tmp_path: Path) -> None:
    content = {
        "model": state(),
        "run": {"adam": {"rows": torch.ones(9)}, "averages": [torch.ones(9)]},
        "rng": torch.ones(5, dtype=torch.uint8),
    }
    layout = find(tmp_path, content)
    assert set(kinds(layout).values()) == {"other"}
    layout = find(tmp_path, content, optimizers=["run.adam"], copies=["run.averages", "gone.x"])
    assert kinds(layout) == {"run.adam": "optimizer", "run.averages": "copy", "rng": "other"}


def test_what_the_project_names_is_refused_where_it_cannot_follow(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('net.**', 'body.**')", config='copies = ["run.averages"]')
    old = zoo.save({"model": state(), "run": {"averages": [torch.ones(9)], "n": 1}})
    error = zoo.refusal(old)
    assert error.code == "CKM560"
    assert error.details[0].startswith("run.averages: ")
    found = torch.load(zoo.upgrade(old, ema="drop"), weights_only=True)
    assert found["run"] == {"n": 1}


@pytest.mark.parametrize(
    "line",
    [
        'copies = "ema"',
        'optimizers = ["a..b"]',
        'copies = [""]',
        "copies = [1]",
        'optimizers = ["x"]\ncopies = ["x"]',
        'weights = "x"\ncopies = ["x"]',
        'copies = ["x", "x"]',
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, line: str) -> None:
    zoo = Zoo(tmp_path / "zoo")
    (zoo.folder / "ckmigrate.toml").write_text(line)
    with pytest.raises(UsageError) as caught:
        _ = zoo.project
    assert caught.value.code == "CKM203"
