"""Configurations and hyper-parameters in files of training runs, edited in the same revision as the
weights: what kinds of containers `ck.meta` reaches, and what stays as it is."""

from __future__ import annotations

import argparse
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckmigrate.formats.open_checkpoint import open_checkpoint
from tests.projects import Zoo

SCRIPT = """
ck.rename("a", "b")
ck.meta.rename("hyper_parameters.n_head", "hyper_parameters.heads")
ck.meta.set("hyper_parameters.kind", "fused")
"""
MODULE = "zoo_hyper_parameters"


class AttributeDict(dict[str, Any]):
    """As Lightning's: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclass
class Config:
    n_head: int = 8


class Pair(NamedTuple):
    n_head: int
    width: int


class Value:
    def __init__(self, value: object) -> None:
        self._val = value


class Container:
    """As OmegaConf's: nodes around the values, in a dict of its own."""

    def __init__(self, **values: object) -> None:
        self._content = {name: Value(value) for name, value in values.items()}
        self._metadata = None


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes under the names that pickles have for such ones."""
    module = types.ModuleType(MODULE)
    for kind in (Config, Pair, Value, Container):
        monkeypatch.setattr(kind, "__module__", MODULE)
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, MODULE, module)
    lightning = types.ModuleType("lightning.fabric.utilities.data")
    monkeypatch.setattr(AttributeDict, "__module__", lightning.__name__)
    lightning.AttributeDict = AttributeDict  # type: ignore[attr-defined]
    for end in range(1, 5):
        name = ".".join(lightning.__name__.split(".")[:end])
        found = lightning if end == 4 else types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, found)


def checkpoint(hyper_parameters: object) -> dict[str, object]:
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"a": torch.ones(2, 2)},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x.ckpt"}},
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }


def upgraded(folder: Path, hyper_parameters: object, script: str = SCRIPT) -> dict[str, Any]:
    zoo = Zoo(folder, script, config=f'carry = ["{MODULE}.*"]')
    new = zoo.upgrade(zoo.save(checkpoint(hyper_parameters)))
    found: dict[str, Any] = torch.load(new, weights_only=False)
    return found


def refused(folder: Path, hyper_parameters: object, script: str = SCRIPT) -> str:
    zoo = Zoo(folder, script, config=f'carry = ["{MODULE}.*"]')
    return str(zoo.refusal(zoo.save(checkpoint(hyper_parameters))))


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "kind", [dict, AttributeDict, argparse.Namespace, Config], ids=lambda kind: kind.__name__
)
def test_hyper_parameters_migrate_with_the_weights(tmp_path: Path, kind: Any) -> None:
    found = upgraded(tmp_path, kind(n_head=8))
    after = found["hyper_parameters"]
    assert type(after) is kind
    content = after if isinstance(after, dict) else vars(after)
    assert content == {"heads": 8, "kind": "fused"}
    assert list(found["state_dict"]) == ["b"]


def test_everything_of_the_framework_stays_as_it_is(tmp_path: Path) -> None:
    old = checkpoint({"n_head": 8})
    found = upgraded(tmp_path, {"n_head": 8})
    for key in old.keys() - {"state_dict", "hyper_parameters"}:
        assert found[key] == old[key], key
    assert list(found) == [*old, "ckmigrate"]


def test_the_version_of_a_framework_is_no_revision(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    new = zoo.upgrade(zoo.save(checkpoint({"n_head": 8})))
    assert open_checkpoint(new).tag is not None
    assert torch.load(new, weights_only=True)["pytorch-lightning_version"] == "2.6.6"


def test_a_downgrade_takes_hyper_parameters_back(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    old = checkpoint({"n_head": 8})
    new = zoo.upgrade(zoo.save(old))
    found = torch.load(zoo.downgrade(new), weights_only=True)
    assert found["hyper_parameters"] == {"n_head": 8}


def test_nested_configurations_are_reached_by_their_path(tmp_path: Path) -> None:
    script = """
    ck.meta.rename("hyper_parameters.model.attention.n", "hyper_parameters.model.heads")
    ck.meta.set("hyper_parameters.model.layers.1.width", ck.meta["hyper_parameters.scale"] * 4)
    """
    layers = [{"width": 1}, {"width": 2}]
    old = {"model": {"attention": {"n": 8, "rotary": True}, "layers": layers}, "scale": 16}
    assert upgraded(tmp_path, old, script)["hyper_parameters"] == {
        "model": {"attention": {"rotary": True}, "layers": [layers[0], {"width": 64}], "heads": 8},
        "scale": 16,
    }


@pytest.mark.usefixtures("names")
def test_a_container_of_nodes_is_edited_where_its_values_are(tmp_path: Path) -> None:
    text = refused(tmp_path / "a", Container(n_head=8, width=2))
    assert "near it: 'hyper_parameters._content.n_head'" in text
    script = "ck.meta.set('hyper_parameters._content.n_head._val', 16)"
    after = upgraded(tmp_path / "b", Container(n_head=8), script)["hyper_parameters"]
    assert isinstance(after, Container)
    assert after._content["n_head"]._val == 16


@pytest.mark.usefixtures("names")
def test_an_object_that_is_made_by_a_call_is_replaced_as_a_whole(tmp_path: Path) -> None:
    text = refused(tmp_path / "a", Pair(8, 2))
    assert f"'hyper_parameters' is a {MODULE}.Pair, made by a call" in text
    assert "ck.meta.set" in text
    script = "ck.meta.set('hyper_parameters', {'heads': 8})"
    assert upgraded(tmp_path / "b", Pair(8, 2), script)["hyper_parameters"] == {"heads": 8}
