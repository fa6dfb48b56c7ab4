"""Folders of the Trainer of Hugging Face: stamped while it trains, upgraded, and resumed by it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ckmigrate
from ckmigrate.errors import NotStamped
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.tagging import parse_tag
from tests.projects import Zoo, revision

pytest.importorskip("transformers", reason="transformers is not installed; CI has it")
pytest.importorskip("accelerate", reason="accelerate is not installed; CI has it")

from transformers import Trainer, TrainingArguments

from ckmigrate.transformers import StampCallback

pytestmark = pytest.mark.filterwarnings("ignore")

MODEL = """
from transformers import PretrainedConfig, PreTrainedModel


class Config(PretrainedConfig):
    model_type = "tiny"


class Base(PreTrainedModel):
    config_class = Config

    def forward(self, x, labels=None):
        y = self.net(x)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}


class Old(Base):
    def __init__(self, config):
        super().__init__(config)
        self.first, self.fc = nn.Linear(3, 4), nn.Linear(4, 1)
        self.post_init()

    def net(self, x):
        return self.fc(torch.tanh(self.first(x)))


class New(Base):
    def __init__(self, config):
        super().__init__(config)
        self.head, self.body = nn.Linear(4, 1), nn.Linear(3, 4)
        self.post_init()

    def net(self, x):
        return self.head(torch.tanh(self.body(x)))


def build():
    return New(Config())
"""
SCRIPT = 'ck.rename("first.{p}", "body.{p}")\nck.rename("fc.{p}", "head.{p}")'
NAMES = {"first": "body", "fc": "head"}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    base = {
        "first.weight": torch.ones(4, 3),
        "first.bias": torch.ones(4),
        "fc.weight": torch.ones(1, 4),
        "fc.bias": torch.ones(1),
    }
    zoo = Zoo(tmp_path / "zoo", SCRIPT, model=textwrap.dedent(MODEL), base=base)
    monkeypatch.syspath_prepend(str(zoo.folder))
    monkeypatch.chdir(tmp_path)
    return zoo


def models(zoo: Zoo) -> ModuleType:
    import importlib

    (factory,) = zoo.project.models.values()
    return importlib.import_module(factory.partition(":")[0])


def rows() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    return [{"x": x, "labels": x.sum().reshape(1)} for x in torch.randn(16, 3)]


def trainer(model: Any, folder: Path, *callbacks: Any, steps: int = 8) -> Any:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_steps=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1000,
        use_cpu=True,
        seed=5,
    )
    return Trainer(model, arguments, train_dataset=rows(), callbacks=list(callbacks))


def made(zoo: Zoo, name: str) -> Any:
    torch.manual_seed(1)
    found = models(zoo)
    return getattr(found, name)(found.Config())


def test_a_folder_is_upgraded_and_resumed_as_if_nothing_had_changed(
    zoo: Zoo, tmp_path: Path
) -> None:
    old = made(zoo, "Old")
    trainer(old, tmp_path / "run").train()
    folder = tmp_path / "run" / "checkpoint-4"
    # The trainer lets weights decay and biases not; a folder of weights says no more of the order.
    order = [f"{name}.{part}" for part in ("weight", "bias") for name in NAMES]
    done = ckmigrate.upgrade(folder, in_place=True, project=zoo.folder, param_order=order)
    assert done.backup is not None
    new = made(zoo, "New")
    trainer(new, tmp_path / "run").train(resume_from_checkpoint=str(folder))
    for before, after in NAMES.items():
        for part in ("weight", "bias"):
            wanted = old.get_parameter(f"{before}.{part}")
            assert torch.equal(new.get_parameter(f"{after}.{part}"), wanted)


def test_what_the_trainer_saves_is_stamped(zoo: Zoo, tmp_path: Path) -> None:
    model = made(zoo, "New")
    trainer(model, tmp_path / "run", StampCallback(project=zoo.folder)).train()
    for step in (4, 8):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        text = open_checkpoint(folder).tag
        assert text is not None
        assert parse_tag(text).revision == revision(1)
        assert (folder / "optimizer.pt").is_file()
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
    assert not [path for path in (tmp_path / "run").iterdir() if ".bak" in path.name]
    again = made(zoo, "New")
    more = trainer(again, tmp_path / "run")
    more.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert torch.equal(again.head.weight, model.head.weight)


def test_a_model_that_moved_on_is_not_stamped_and_says_so(zoo: Zoo, tmp_path: Path) -> None:
    run = trainer(made(zoo, "Old"), tmp_path / "run", StampCallback(project=zoo.folder), steps=4)
    with pytest.warns(NotStamped, match="CKM622"):
        run.train()
    assert open_checkpoint(tmp_path / "run" / "checkpoint-4").tag is None
