"""Training state at the command line: what is said about it, and what the options do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli_project import BASE, Toy


@pytest.fixture
def trained(toy: Toy) -> Path:
    torch.manual_seed(0)
    state = {name: torch.randn(shape) for name, shape in BASE.items()}
    average = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    content = {"model": state, "ema": {**average, "n_averaged": torch.tensor(4)}, "epoch": 2}
    torch.save(content, toy.root / "run.pt")
    return toy.root / "run.pt"


def test_a_plan_says_what_becomes_of_an_average(toy: Toy, trained: Path) -> None:
    ran = toy.run("plan", trained)
    assert ran.code == 0
    line = "  ema         ema: copy of weights: 8 as the weights, 1 new, 1 dropped"
    assert line in ran.out.splitlines()
    (result,) = toy.run("plan", trained, "--json").json["results"]
    assert result["training"][0]["counts"] == {"follow": 8, "fresh": 1, "dropped": 1}


def test_an_average_is_carried_unless_it_is_dropped(toy: Toy, trained: Path) -> None:
    ran = toy.run("upgrade", trained, "-o", "new.pt")
    assert ran.code == 0
    assert "9 entries, 1 copy of weights, " in ran.out
    new, old = (torch.load(toy.root / name, weights_only=True) for name in ("new.pt", "run.pt"))
    assert new["ema"].pop("n_averaged") == 4
    assert new["ema"].keys() == {f"module.{name}" for name in new["model"]}
    q = new["ema"]["module.encoder.layers.1.q.weight"]
    assert torch.equal(q, old["ema"]["module.body.layers.1.qkv.weight"][:4])
    for flag, keys in (("carry", ["model", "ema", "epoch"]), ("drop", ["model", "epoch"])):
        assert toy.run("upgrade", trained, "-o", f"{flag}.pt", "--ema", flag).code == 0
        found = torch.load(toy.root / f"{flag}.pt", weights_only=True)
        assert [*found] == [*keys, "ckmigrate"]


def test_what_cannot_follow_is_refused_with_the_way_out(toy: Toy, trained: Path) -> None:
    content = torch.load(trained, weights_only=True)
    content["ema"]["more"] = torch.ones(7, 7)
    torch.save(content, trained)
    ran = toy.run("upgrade", trained, "-o", "new.pt")
    assert ran.code == 5
    assert "CKM560" in ran.err
    assert "'more' in it is no weight by name and shape" in ran.err
    assert "--ema drop" in ran.err
    assert not (toy.root / "new.pt").exists()
    assert toy.run("upgrade", trained, "-o", "new.pt", "--ema", "drop").code == 0


def test_inspect_says_how_the_file_was_saved(toy: Toy, trained: Path) -> None:
    ran = toy.run("inspect", trained)
    assert "  layout:   training checkpoint" in ran.out.splitlines()
    assert "  beside:   ema: copy of weights, 6 tensors" in ran.out.splitlines()
    assert toy.run("inspect", trained, "--json").json["layout"] == "training checkpoint"
