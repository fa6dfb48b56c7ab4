"""Whole upgrades of checkpoints with optimizer state: saved, refactored, upgraded, resumed."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckmigrate.cli.param_order import read_param_order
from ckmigrate.errors import MigrationError, UsageError
from ckmigrate.snapshot import Snapshot, render_snapshot
from tests.cli_project import command
from tests.projects import Script, Zoo, load, schema_of

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


def test_a_file_at_the_head_is_numbered_anew_where_the_model_has_another_order(
    tmp_path: Path,
) -> None:
    """No script is left to run, and the layers of one shape have changed places in the code."""
    turned = SAME.replace("self.one, self.two =", "self.two, self.one =")
    before, after = (
        Zoo(tmp_path / name, "'one.weight' in ck", model=text, base=module(SAME).state_dict())
        for name, text in (("a", SAME), ("b", turned))
    )
    model, optimizer = trained(OPTIMIZERS["amsgrad"], SAME)
    path = before.upgrade(before.save(saved(model, optimizer), "old.pt"))
    assert not before.prepare(path).has_work
    assert after.prepare(path).has_work
    new = after.upgrade(path)
    assert not after.prepare(new).has_work
    losses = train(model, optimizer, range(100, 120))
    found: Any = load(new)
    assert resumed(found, OPTIMIZERS["amsgrad"], turned) == pytest.approx(losses, rel=1e-4)
    stale: Any = {**found, "optimizer": torch.load(path, weights_only=True)["optimizer"]}
    assert resumed(stale, OPTIMIZERS["amsgrad"], turned) != pytest.approx(losses, rel=1e-4)


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


SAME = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Linear(6, 6, bias=False) for _ in range(2))

    def forward(self, x):
        return self.two(self.one(x).tanh())

build = Net
"""


def only_the_second(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([list(model.parameters())[1]], lr=0.01)


@pytest.mark.parametrize("text", ["two.weight\n", '["two.weight"]'])
def test_a_file_names_what_is_not_certain(tmp_path: Path, text: str) -> None:
    """One layer is frozen, and the other one has its shape."""
    body = "ck.rename('{n}.weight', 'layers.{n}.weight')"
    new = SAME.replace("self.one, self.two =", "self.layers = nn.ModuleDict(); one, two =")
    new = new.replace(
        "\n    def forward", "        self.layers.update({'one': one, 'two': two})\n    def forward"
    )
    new = new.replace("self.two(self.one(x)", "self.layers['two'](self.layers['one'](x)")
    zoo = Zoo(tmp_path, body, model=new, base=module(SAME).state_dict())
    model, optimizer = trained(only_the_second, SAME)
    path = zoo.save(saved(model, optimizer), "old.pt")
    (tmp_path / "order.txt").write_text(text)
    order = ["--param-order", tmp_path / "order.txt"]
    base = command("--config", tmp_path, "upgrade", path, "-o", tmp_path / "new.pt")
    first = subprocess.run(base, check=False, capture_output=True, text=True)
    assert first.returncode == 5
    assert "CKM566" in first.stderr
    assert not (tmp_path / "new.pt").exists()
    subprocess.run([*base, *map(str, order)], check=True, capture_output=True)
    found: Any = load(tmp_path / "new.pt")
    losses = train(model, optimizer, range(100, 120))
    assert resumed(found, only_the_second, new) == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("text", ["", "[1]", "[", None])
def test_a_file_that_names_nothing_is_told(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "order.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_param_order(path)
    assert caught.value.code == "CKM259"


def test_the_code_says_where_a_new_parameter_goes(tmp_path: Path) -> None:
    """Two groups that nothing tells apart, and a new layer."""
    new = (
        SAME.replace(
            "build = Net",
            """
def make(model):
    head, *rest = reversed(list(model.parameters()))
    return torch.optim.Adam([{"params": rest[::-1], "lr": 0.01}, {"params": [head], "lr": 0.1}])

build = Net
""",
        )
        .replace("self.one, self.two = (", "self.one, self.new, self.two = (")
        .replace("range(2)", "range(3)")
    )
    new = new.replace("self.one(x).tanh()", "self.one(x).tanh() + self.new(x)")
    body = "ck.init('new.weight', shape=(6, 6))"
    model = module(SAME)

    def split(model: nn.Module) -> torch.optim.Optimizer:
        *rest, head = model.parameters()
        return torch.optim.Adam([{"params": rest, "lr": 0.01}, {"params": [head], "lr": 0.1}])

    model, optimizer = trained(split, SAME)
    zoo = Zoo(tmp_path, body, model=new, base=model.state_dict())
    (tmp_path / "order.txt").write_text("one.weight\ntwo.weight\n")
    given: Any = {"param_order": ("one.weight", "two.weight")}
    path = zoo.save(saved(model, optimizer), "old.pt")
    assert zoo.refusal(path, **given).code == "CKM577"
    config = tmp_path / "ckmigrate.toml"
    name = next(tmp_path.glob("zoo_model_*.py")).stem
    config.write_text(f'optimizer = "{name}:make"\n' + config.read_text())
    found: Any = load(zoo.upgrade(path, **given))
    moments = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    state = found["optimizer"]["state"]
    assert [group["params"] for group in found["optimizer"]["param_groups"]] == [[0, 1], [2]]
    assert torch.equal(state[0]["exp_avg"], moments[0])
    assert torch.equal(state[2]["exp_avg"], moments[1])
    assert 1 not in state


FIXED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6, bias=False)
        self.learned = nn.Parameter(torch.ones(6, 6))
        self.two = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return self.two(self.one(x).tanh() + x @ self.learned)

build = Net
"""


def fixed(*, frozen: bool) -> str:
    text = FIXED.replace("self.learned = nn.Parameter(", "self.register_buffer('learned', ")
    text = text.replace("two", "second")
    freeze = "        self.second.requires_grad_(False)\n" * frozen
    return text.replace("\n    def forward", f"{freeze}\n    def forward")


def test_a_parameter_becomes_a_buffer(tmp_path: Path) -> None:
    """Nothing but its name is left in the new model, and the optimizer counted it."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    model, optimizer = trained(make, FIXED)
    body = "ck.rename('two.weight', 'second.weight')"
    zoo = Zoo(tmp_path, body, model=fixed(frozen=False), base=model.state_dict())
    found: Any = load(zoo.upgrade(zoo.save(saved(model, optimizer), "old.pt")))
    model.get_parameter("learned").requires_grad_(False)
    losses = train(model, optimizer, range(100, 120))
    assert resumed(found, make, fixed(frozen=False)) == pytest.approx(losses, rel=1e-4)


def test_a_frozen_weight_is_not_taken_for_a_parameter_that_became_a_buffer(tmp_path: Path) -> None:
    model, optimizer = trained(lambda m: torch.optim.Adam(list(m.parameters())[:2]), FIXED)
    body = "ck.rename('two.weight', 'second.weight')"
    zoo = Zoo(tmp_path, body, model=fixed(frozen=True), base=model.state_dict())
    path = zoo.save(saved(model, optimizer), "old.pt")
    assert zoo.refusal(path).code == "CKM566"


def test_a_file_whose_weights_were_sorted_does_not_tell_the_order(tmp_path: Path) -> None:
    """The snapshot of the base says in which order the model had them."""
    old = SAME.replace("one", "zero")
    model, optimizer = trained(lambda m: torch.optim.Adam(m.parameters()), old)
    state = saved(model, optimizer)
    body = "ck.rename('zero.weight', 'one.weight')"
    zoo = Zoo(tmp_path, body, model=SAME, base=model.state_dict())
    snapshot = Snapshot(schema_of(model.state_dict()), (), "default", tuple(model.state_dict()))
    zoo.project.snapshot_path("default").write_text(render_snapshot(snapshot))
    assert zoo.upgrade(zoo.save(state, "old.pt"))
    state["model"] = dict(sorted(state["model"].items()))
    assert zoo.refusal(zoo.save(state, "sorted.pt"), "other.pt").code == "CKM566"
