"""Training state in torch distributed checkpoints: it follows the weights, chunk by chunk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.dcp_folders import handmade, load, metadata_of, rows
from tests.fast import change, take_back
from tests.projects import Zoo
from tests.shards import digest

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
