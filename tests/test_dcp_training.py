"""Training state in torch distributed checkpoints: it follows the weights, chunk by chunk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from tests.dcp_folders import handmade, load, metadata_of, rows, save
from tests.fast import change, take_back
from tests.projects import Zoo
from tests.shards import digest
from tests.training_folders import step

RENAME = "ck.rename('net.{p}', 'body.{p}')"
SPLIT = RENAME + "\nck.split('body.qk', ('q', 'k'), dim=0)\nck.transpose('body.out', 0, 1)"


def state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {"net.qk": torch.randn(6, 4), "net.out": torch.randn(2, 4), "net.bias": torch.randn(6)}


def two_ranks(path: Path) -> Path:
    """Weights and an average of them, as two ranks leave them."""
    found = {f"model.{name}": rows(t, *halves(t)) for name, t in state(0).items()}
    found |= {f"ema.module.{name}": rows(t, *halves(t)) for name, t in state(1).items()}
    paths: dict[str, tuple[str | int, ...]] = {
        name: tuple(name.split(".", 1)) for name in (*found, "ema.decay")
    }
    return handmade(path, found, objects={"ema.decay": 0.9}, paths=paths)


def halves(tensor: Tensor) -> tuple[int, int]:
    return len(tensor) - len(tensor) // 2, len(tensor) // 2


def moved(old: dict[str, Tensor]) -> dict[str, Tensor]:
    q, k = old["net.qk"].chunk(2)
    return {"q": q, "k": k, "body.out": old["net.out"].T, "body.bias": old["net.bias"]}


def renamed(old: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("net.", "body."): tensor for name, tensor in old.items()}


def assert_holds(path: Path, weights: dict[str, Tensor], average: dict[str, Tensor]) -> None:
    average = {f"module.{name}": tensor for name, tensor in average.items()}
    wanted: dict[str, dict[str, Any]] = {"model": weights, "ema": {**average, "decay": 0.9}}
    empty = {
        "model": {name: torch.zeros_like(t) for name, t in weights.items()},
        "ema": {**{name: torch.zeros_like(t) for name, t in average.items()}, "decay": None},
    }
    found = load(path, empty)
    for part in ("model", "ema"):
        assert found[part].keys() == wanted[part].keys()
        for name, value in found[part].items():
            same = torch.equal(value, wanted[part][name]) if name != "decay" else value == 0.9
            assert same, (part, name)
    names = metadata_of(path).state_dict_metadata.keys()
    assert names == {*(f"model.{n}" for n in weights), *(f"ema.{n}" for n in average), "ema.decay"}


def changed_names(old: Path, new: Path) -> set[str]:
    before, after = digest(old) or {}, digest(new) or {}
    return {name for name in after if after[name] != before.get(name)}


def test_a_renamed_average_keeps_its_chunks(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", RENAME, base=state(0))
    source = two_ranks(zoo.folder / "ck")
    new = zoo.upgrade(source, "new")
    assert_holds(new, renamed(state(0)), renamed(state(1)))
    assert changed_names(source, new) == {".metadata", "ckmigrate.json"}


def test_parts_that_are_chunks_and_parts_that_are_not(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", SPLIT, base=state(0))
    new = zoo.upgrade(two_ranks(zoo.folder / "ck"), "new")
    assert_holds(new, moved(state(0)), moved(state(1)))
    found = metadata_of(new).storage_data
    places = {index.fqn: info.relative_path for index, info in found.items()}
    assert places["ema.module.q"] == "__0_0.distcp"
    assert places["ema.module.body.out"] not in ("__0_0.distcp", "__1_0.distcp")
    back = zoo.downgrade(new, "back")
    assert_holds(back, state(0), state(1))


def test_in_place_only_the_metadata_changes(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", RENAME, base=state(0))
    source = two_ranks(zoo.folder / "ck")
    before = digest(source)
    assert before is not None
    assert change(zoo, source).fast
    assert_holds(source, renamed(state(0)), renamed(state(1)))
    after = digest(source)
    assert after is not None
    assert {n for n in after if after[n] != before.get(n)} == {".metadata", "ckmigrate.json"}
    take_back(source)
    assert digest(source) == before


def test_a_torch_file_becomes_a_folder_and_a_folder_a_torch_file(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "p", SPLIT, base=state(0))
    average = {f"module.{name}": tensor for name, tensor in state(1).items()}
    file = zoo.save({"model": state(0), "ema": {**average, "decay": 0.9}})
    folder = zoo.upgrade(file, "folder", to_format="dcp")
    assert_holds(folder, moved(state(0)), moved(state(1)))
    single = zoo.upgrade(two_ranks(zoo.folder / "ck"), "single.pt")
    found = torch.load(single, weights_only=True)["ema"]
    assert torch.equal(found["module.body.out"], state(1)["net.out"].T)
    assert "new" not in os.listdir(zoo.folder)


# --- optimizers -------------------------------------------------------------------------------

MODEL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.q = nn.Linear(4, 3, bias=False)
        self.k = nn.Linear(4, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)


def build():
    return Net()
"""
CHANGE = """
ck.rename("first.{p}", "body.{p}")
ck.split("qk.weight", ("q.weight", "k.weight"), dim=0)
ck.init("scale", shape=(3,), value=init.ones())
"""


class Net(nn.Module):
    """The old model; its parameters are not in the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = nn.Linear(4, 6, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.first = nn.Linear(4, 4)


def trained(kind: str) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    makers: dict[str, Any] = {
        "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
        "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        "plain": lambda p: torch.optim.SGD(p, lr=1e-2),
    }
    optimizer: torch.optim.Optimizer = makers[kind](list(model.parameters()))
    step(model, optimizer)
    return model, optimizer


def by_name(model: nn.Module, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of `optimizer.state_dict()` by the names of the parameters."""
    names = [name for name, _ in model.named_parameters()]
    return {names[number]: fields for number, fields in state["state"].items()}


def moved_fields(old: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the script makes of the state, by name; of what is new, nothing."""
    new = {name.replace("first.", "body."): fields for name, fields in old.items()}
    if "qk.weight" not in new:
        return new
    whole = new.pop("qk.weight")
    parts = {name: t.chunk(2) if t is not None and t.ndim else (t, t) for name, t in whole.items()}
    for number, letter in enumerate("qk"):
        new[f"{letter}.weight"] = {name: part[number] for name, part in parts.items()}
    return new


def assert_same_state(found: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    for name, fields in wanted.items():
        assert found[name].keys() == fields.keys(), name
        for field, value in fields.items():
            if isinstance(value, Tensor):
                assert torch.equal(found[name][field], value), (name, field)
            else:
                assert found[name][field] == value, (name, field)


def zoo_of(folder: Path) -> Zoo:
    return Zoo(folder, CHANGE, base=dict(Net().state_dict()), model=MODEL)


@pytest.mark.parametrize("kind", ["adam", "momentum", "plain"])
@pytest.mark.parametrize("flat", [False, True])
def test_state_by_name_is_loaded_into_the_new_model(tmp_path: Path, kind: str, flat: bool) -> None:
    zoo = zoo_of(tmp_path / "p")
    model, optimizer = trained(kind)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    source = save(zoo.folder / "ck", {"model": weights, "optim": state, "epoch": 2})
    folder = zoo.upgrade(source, "new")
    new: nn.Module = zoo_target(zoo)
    fresh: Any = type(optimizer)(new.parameters(), **settings(optimizer))
    weights, state = get_state_dict(new, fresh, options=options)
    found = load(folder, {"model": weights, "optim": state, "epoch": 0})
    assert found["epoch"] == 2
    strict = StateDictOptions(flatten_optimizer_state_dict=flat, strict=True)
    set_state_dict(
        new,
        fresh,
        model_state_dict=found["model"],
        optim_state_dict=found["optim"],
        options=strict,
    )
    loaded = by_name(new, fresh.state_dict())
    assert_same_state(loaded, moved_fields(by_name(model, optimizer.state_dict())))
    assert not any(bool(t.any()) for t in loaded.get("scale", {}).values() if t is not None)
    assert fresh.param_groups[0]["lr"] == 1e-2


def settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"momentum": optimizer.defaults["momentum"]} if "momentum" in optimizer.defaults else {}


def zoo_target(zoo: Zoo) -> Any:
    name, factory = zoo.project.model(None)
    module = __import__("importlib").import_module(factory.partition(":")[0])
    assert name
    return module.build()


@pytest.mark.parametrize("kind", ["adam", "momentum", "plain"])
def test_state_by_number_is_numbered_anew(tmp_path: Path, kind: str) -> None:
    zoo = zoo_of(tmp_path / "p")
    model, optimizer = trained(kind)
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    source = save(zoo.folder / "ck", content)
    folder = zoo.upgrade(source, "new")
    new: nn.Module = zoo_target(zoo)
    fresh: Any = type(optimizer)(new.parameters(), **settings(optimizer))
    step(new, fresh)
    names = [name for name, _ in new.named_parameters()]
    wanted = moved_fields(by_name(model, optimizer.state_dict()))
    state = {"state": {}, **{k: v for k, v in fresh.state_dict().items() if k != "state"}}
    for number, name in enumerate(names):
        if name in wanted:
            fields = wanted[name].items()
            state["state"][number] = {
                k: torch.zeros_like(t) if isinstance(t, Tensor) else None for k, t in fields
            }
    found = load(folder, {"model": new.state_dict(), "optimizer": state})["optimizer"]
    assert_same_state({names[n]: f for n, f in found["state"].items() if n in range(9)}, wanted)
    assert found["param_groups"][0]["params"] == list(range(len(names)))


def test_a_renamed_optimizer_keeps_its_chunks(tmp_path: Path) -> None:
    model, optimizer = trained("adam")
    base = dict(model.state_dict())
    zoo = Zoo(tmp_path / "p", "ck.rename('qk.weight', 'kq.weight')", base=base)
    weights, state = get_state_dict(model, optimizer)
    source = save(zoo.folder / "ck", {"model": weights, "optim": state})
    before = digest(source)
    new = zoo.upgrade(source, "new")
    changed = changed_names(source, new)
    data = {name for name in changed if name.endswith(".distcp")}
    assert len(data) <= 1
    items = metadata_of(new).state_dict_metadata
    assert "optim.state.kq.weight.exp_avg" in items
    assert "optim.state.qk.weight.exp_avg" not in items
    assert change(zoo, source).fast
    after = digest(source)
    assert before is not None
    assert after is not None
    assert [n for n in before if before[n] != after[n]] == [".metadata"]
