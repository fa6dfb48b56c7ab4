"""Folders of accelerate: saved by it, upgraded, and loaded by it into the new model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckmigrate.snapshot import Snapshot, render_snapshot
from tests.projects import Zoo, schema_of

pytest.importorskip("accelerate", reason="accelerate is not installed; CI has it")

from accelerate import Accelerator

pytestmark = pytest.mark.filterwarnings("ignore")

SCRIPT = 'ck.rename("zero.{p}", "norm.{p}")\nck.rename("a.{p}", "z.{p}")'
MODEL = """
class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.z, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        return self.z(torch.tanh(self.norm(x)))


def build():
    return New()
"""


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.zero, self.a = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.a(torch.tanh(self.zero(x))))


class Average:
    """An average of the weights, registered with accelerate."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            self.shadow[name].lerp_(tensor, 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "decay": 0.9}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = state["shadow"]


class Run:
    """A model in training, as a script with accelerate has it."""

    def __init__(self, model: nn.Module) -> None:
        self.accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(
            model, optimizer, schedule
        )
        self.average = Average(model)
        self.accelerator.register_for_checkpointing(self.average)

    def train(self, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(steps):
            loss = (self.model(torch.randn(8, 4)) - 1).square().mean()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.average.update(self.model)

    @property
    def values(self) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = self.model.state_dict()
        return {**weights, **{f"average {k}": v for k, v in self.average.shadow.items()}}


def test_training_goes_on_as_if_nothing_had_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    zoo = Zoo(tmp_path / "zoo", SCRIPT, model=MODEL)
    state = Old().state_dict()
    path = zoo.project.snapshot_path("default")
    path.parent.mkdir(parents=True)
    snapshot = Snapshot(schema_of(state), (), "default", tuple(state))
    path.write_text(render_snapshot(snapshot))
    torch.manual_seed(0)
    old = Run(Old())
    old.train(3, seed=1)
    old.accelerator.save_state(str(zoo.folder / "state"))
    old.train(4, seed=2)
    folder = zoo.upgrade(zoo.folder / "state", "new")
    monkeypatch.syspath_prepend(str(zoo.folder))
    (factory,) = zoo.project.models.values()
    new = Run(importlib.import_module(factory.partition(":")[0]).build())
    new.accelerator.load_state(str(folder))
    new.train(4, seed=2)
    names = {name: name.replace("zero.", "norm.").replace("a.", "z.") for name in state}
    for before, after in names.items():
        assert torch.equal(new.values[after], old.values[before]), after
        assert torch.equal(new.values[f"average {after}"], old.values[f"average {before}"]), after
