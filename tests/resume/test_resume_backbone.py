"""Pretrained networks that are wrapped, extended or cut: training resumes with what stayed.

The modules are Lightning's, old and new; a Trainer resumes from the upgraded file with `ckpt_path=`
and has, when its first step begins, for each parameter the state of the parameter that it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.resume.project import project_of

pytest.importorskip("pytorch_lightning", reason="Lightning is not installed; CI has it")

from tests.resume import modules
from tests.resume.modules import CLASSES, Trained
from tests.resume.trainers import EPOCH, Snapshot, fit

pytestmark = pytest.mark.filterwarnings("ignore")

NEW_HEAD = """
ck.rename("resnet.**", "pretrained_layers.**")
ck.drop("pretrained_layers.fc.**", reason="the backbone ends before its classifier")
classes = ck.meta["hyper_parameters.n_classes"]
ck.init("fc1.weight", shape=(16, 8), value=init.kaiming_uniform(a=5**0.5))
ck.init("fc1.bias", shape=(16,))
ck.init("fc2.weight", shape=(classes, 16), value=init.kaiming_uniform(a=5**0.5))
ck.init("fc2.bias", shape=(classes,))
ck.meta.rename("hyper_parameters.n_classes", "hyper_parameters.num_classes")
ck.meta.rename("hyper_parameters.lr", "hyper_parameters.learning_rate")
"""
FRONT = """
ck.init("colour.weight", shape=(3, 1, 1, 1), value=init.ones())
ck.init("colour.bias", shape=(3,))
"""
WRAP = """
ck.rename("**", "features.0.**")
"""
SHORTCUT = """
if "conv3.weight" in ck:
    ck.rename("conv3.{p}", "shortcut.0.{p}")
else:
    ck.init("shortcut.0.{p}", like="conv2.{p}")
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A change of a module.

    before   the old name of an entry of the new module; None for what is new
    setting  the factory of the optimizer in the configuration, which knows its groups
    """

    old: Callable[[], Trained]
    new: Callable[[], Trained]
    script: str
    before: Callable[[str], str | None]
    setting: str = ""

    @property
    def config(self) -> str:
        return f'optimizer = "tests.resume.modules:{self.setting}"' if self.setting else ""


def of_backbone(name: str) -> str | None:
    head, _, rest = name.partition(".")
    return f"resnet.{rest}" if head == "pretrained_layers" else None


def of_front(name: str) -> str | None:
    return None if name.startswith("colour.") else name


def of_wrapped(name: str) -> str | None:
    return name.removeprefix("features.0.")


def of_shortcut(name: str) -> str | None:
    return name.replace("shortcut.0.", "conv3.")


def without(old: Callable[[str], str | None], gone: str) -> Callable[[str], str | None]:
    """The same, where nothing was called `gone`."""
    return lambda name: None if (before := old(name)) and gone in before else before


CASES = {
    "fc-is-identity": Case(modules.ResNet, modules.Pretrained, NEW_HEAD, of_backbone),
    "groups": Case(modules.OldSlower, modules.NewSlower, NEW_HEAD, of_backbone, "backbone_slower"),
    "frozen": Case(modules.ResNet, modules.FrozenBackbone, NEW_HEAD, of_backbone, "trainable_only"),
    "convolution-in-front": Case(modules.ResNet, modules.Grey, FRONT, of_front),
    "sequential": Case(modules.Vgg, modules.Wrapped, WRAP, of_wrapped),
    "conditional-present": Case(modules.with_third, modules.WithShortcut, SHORTCUT, of_shortcut),
    "conditional-absent": Case(
        modules.Switched, modules.WithShortcut, SHORTCUT, without(of_shortcut, "conv3")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trainer_resumes_with_the_state_of_what_stayed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder = tmp_path / "project"
    torch.manual_seed(0)
    module = case.old()
    project = project_of(
        folder, monkeypatch, case.new, case.script, module.state_dict(), case.config
    )
    old, new = Snapshot(), Snapshot()
    trainer = fit(module, folder, 1)
    old.take(trainer, module)
    trainer.save_checkpoint(folder / "old.ckpt")
    upgraded = project.upgrade(folder / "old.ckpt", out="new.ckpt")
    resumed = case.new()
    resumed.load_state_dict(torch.load(upgraded, weights_only=False)["state_dict"], strict=True)
    trainer = fit(resumed, folder, 2, [new], upgraded)
    assert trainer.global_step == 2 * EPOCH
    assert len(resumed.losses) == EPOCH
    assert all(parameter.isfinite().all() for parameter in resumed.parameters())
    compare(case, old, new, resumed)


def compare(case: Case, old: Snapshot, new: Snapshot, module: Trained) -> None:
    """Weights, state and learning rates of what stayed are the old ones, bit for bit."""
    stayed = {name: before for name in new.weights if (before := case.before(name)) is not None}
    assert stayed
    for name, before in stayed.items():
        assert torch.equal(new.weights[name], old.weights[before]), name
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert new.states.keys() == {n for n in trained if stayed.get(n) in old.states}
    for name, state in new.states.items():
        was = old.states[stayed[name]]
        assert state.keys() == was.keys()
        assert all(torch.equal(state[key], was[key]) for key in was), name
        assert new.rates[name] == old.rates[stayed[name]]


def test_hyper_parameters_are_renamed_in_the_same_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = modules.ResNet(n_classes=CLASSES, lr=0.25)
    folder = tmp_path / "project"
    base = module.state_dict()
    project = project_of(folder, monkeypatch, modules.Pretrained, NEW_HEAD, base)
    fit(module, folder, 1).save_checkpoint(folder / "old.ckpt")
    upgraded = project.upgrade(folder / "old.ckpt", out="new.ckpt")
    loaded = modules.Pretrained.load_from_checkpoint(upgraded)
    assert dict(loaded.hparams) == {"num_classes": CLASSES, "learning_rate": 0.25}
