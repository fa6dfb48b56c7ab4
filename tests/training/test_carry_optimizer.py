"""Whole upgrades of checkpoints with optimizer state: saved, refactored, upgraded, resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckmigrate.errors import MigrationError
from tests.projects import Script, Zoo, load

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
OLD = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.out = nn.Linear(6, 6, bias=False)
        self.skip = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.skip(x) + self.norm(self.out(q * k.tanh() + v))

build = Net
"""
NEW = """
class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(6, 6))

    def forward(self, x):
        return x @ self.kernel

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shortcut = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.v, self.k, self.q = (nn.Linear(6, 6) for _ in range(3))
        self.out = Linear()

    def forward(self, x):
        mixed = self.out(self.q(x) * self.k(x).tanh() + self.v(x))
        return self.shortcut(x) + self.norm(mixed)

build = Net
"""
BODY = """
ck.rename("skip.{p}", "shortcut.{p}")
ck.split("qkv.{p}", "{q,k,v}.{p}", dim=0)
ck.rename("out.weight", "out.kernel")
ck.transpose("out.kernel", 0, 1)
"""


def module(text: str) -> Any:
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(text, names)  # the text is that of this file
    return names["build"]()


def split_groups(model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.parameters())
    return [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0, "lr": 0.003},
    ]


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adamw": lambda model: torch.optim.AdamW(split_groups(model), lr=0.01),
    "amsgrad": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    "named": lambda model: torch.optim.AdamW(model.named_parameters(), lr=0.01),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: Iterable[int]) -> list[float]:
    losses = []
    for seed in seeds:
        made = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 16, 6, generator=made).unbind(0)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(make: MakeOptimizer, text: str = OLD) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = module(text)
    optimizer = make(model)
    train(model, optimizer, range(5))
    return model, optimizer


def saved(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    return copy.deepcopy(state)


def resumed(found: Mapping[str, Any], make: MakeOptimizer, text: str = NEW) -> list[float]:
    model = module(text)
    optimizer = make(model)
    model.load_state_dict(found["model"], strict=True)
    optimizer.load_state_dict(found["optimizer"])
    return train(model, optimizer, range(100, 120))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_after_a_refactor(tmp_path: Path, kind: str) -> None:
    make = OPTIMIZERS[kind]
    zoo = Zoo(tmp_path, BODY, model=NEW, base=module(OLD).state_dict())
    model, optimizer = trained(make)
    found: Any = load(zoo.upgrade(zoo.save(saved(model, optimizer), "old.pt")))
    losses = train(model, optimizer, range(100, 120))
    assert resumed(found, make) == pytest.approx(losses, rel=1e-4)
    stale = {**found, "optimizer": make(module(NEW)).state_dict()}
    assert resumed(stale, make) != pytest.approx(losses, rel=1e-4)


def test_the_next_migration_finds_the_order_again(tmp_path: Path) -> None:
    """What was written is in the order of the model, by which it is read."""
    make = OPTIMIZERS["adamw"]
    first = Zoo(tmp_path / "a", BODY, model=NEW, base=module(OLD).state_dict())
    model, optimizer = trained(make)
    path = first.upgrade(first.save(saved(model, optimizer), "old.pt"))
    assert list(load(path)["model"]) == list(module(NEW).state_dict())
    newest = NEW.replace("shortcut", "direct")
    second = Zoo(
        tmp_path / "b",
        BODY,
        Script('ck.rename("shortcut.**", "direct.**")'),
        model=newest,
        base=module(OLD).state_dict(),
    )
    found: Any = load(second.upgrade(path))
    losses = train(model, optimizer, range(100, 120))
    assert resumed(found, make, newest) == pytest.approx(losses, rel=1e-4)


def test_layers_in_another_order_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """No name changes, and torch would load the state without a word."""
    text = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    layers = [f"        self.{n} = nn.Linear(4, 4, bias=False)\n" for n in "ab"]
    rest = "    def forward(self, x): return self.b(self.a(x).relu())\nbuild = Net\n"
    old, new = ("".join([text, *part, rest]) for part in (layers, layers[::-1]))
    zoo = Zoo(tmp_path, "'a.weight' in ck", model=new, base=module(old).state_dict())

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = module(old)
    optimizer = make(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    found: Any = load(zoo.upgrade(zoo.save(saved(model, optimizer), "old.pt")))
    moments = [optimizer.state[p]["exp_avg"] for p in (model.b.weight, model.a.weight)]
    state = found["optimizer"]["state"]
    assert all(torch.equal(state[n]["exp_avg"], moments[n]) for n in range(2))


def test_the_plan_says_what_becomes_of_it(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, BODY, model=NEW, base=module(OLD).state_dict())
    path = zoo.save(saved(*trained(OPTIMIZERS["adamw"])), "old.pt")
    (node,) = zoo.prepare(path).plan.carried.nodes
    assert node.summary.text == "2 groups of 10 parameters; 10 with state that follows"
    assert node.summary.lines == ("    10  step, exp_avg, exp_avg_sq",)


def test_a_function_without_a_rule_is_named_with_its_line(tmp_path: Path) -> None:
    body = BODY + 'ck.compute("shortcut.weight", "shortcut.weight", lambda w: w * 1)\n'
    zoo = Zoo(tmp_path, body, model=NEW, base=module(OLD).state_dict())
    path = zoo.save(saved(*trained(OPTIMIZERS["adamw"])), "old.pt")
    error = zoo.refusal(path)
    assert isinstance(error, MigrationError)
    assert error.code == "CKM562"
    assert "line" in (error.where or "")
    assert all(word in (error.fix or "") for word in ('"same"', '"reset"', "--optimizer drop"))
    assert zoo.upgrade(path, optimizer="drop")
