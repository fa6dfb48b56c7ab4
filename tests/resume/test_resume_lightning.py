"""Lightning checkpoints resume with `ckpt_path=` after an upgrade.

The weights, the optimizer with its groups, the schedule, the loops, the callbacks and the
hyper-parameters come from one file, which `ckmigrate upgrade` has carried over a refactor.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.resume.networks import SCRIPT
from tests.resume.project import Project, project_of
from tests.resume.training import difference

pytest.importorskip("pytorch_lightning", reason="Lightning is not installed; CI has it")

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from tests.resume.modules import NewModule, OldModule
from tests.resume.trainers import EPOCH, fit

pytestmark = pytest.mark.filterwarnings("ignore")

BEFORE, AFTER = 3, 2
"""Epochs until the checkpoint and after it."""

MODULE_SCRIPT = (
    """
ck.rename("network.**", "**")
"""
    + SCRIPT
    + """
ck.rename("**", "model.**")
ck.meta.rename("hyper_parameters.wd", "hyper_parameters.weight_decay")
"""
)


def keeper(folder: Path) -> ModelCheckpoint:
    """Saves once, after `BEFORE` epochs."""
    return ModelCheckpoint(
        dirpath=folder, filename="old", every_n_epochs=BEFORE, save_top_k=-1, monitor=None
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    base = OldModule().state_dict()
    return project_of(tmp_path / "project", monkeypatch, NewModule, MODULE_SCRIPT, base)


def trained(folder: Path, *callbacks: pl.Callback) -> OldModule:
    """The old module after all epochs; `old.ckpt` holds it after the first ones."""
    torch.manual_seed(0)
    old = OldModule(wd=0.3)
    fit(old, folder, BEFORE + AFTER, [keeper(folder), *callbacks])
    assert (folder / "old.ckpt").exists()
    return old


def test_the_next_losses_are_those_of_the_uninterrupted_run(project: Project) -> None:
    old = trained(project.folder)
    upgraded = project.upgrade(project.folder / "old.ckpt", out="new.ckpt")
    new = NewModule.load_from_checkpoint(upgraded)
    assert new.hparams["weight_decay"] == 0.3
    fit(new, project.folder, BEFORE + AFTER, path=upgraded)
    assert len(new.losses) == AFTER * EPOCH
    assert difference(old.losses[BEFORE * EPOCH :], new.losses) < 1e-9


def test_versions_loops_and_callbacks_stay_as_they_were(project: Project) -> None:
    trained(project.folder)
    upgraded = project.upgrade(project.folder / "old.ckpt", out="new.ckpt")
    old, new = (
        torch.load(path, weights_only=False) for path in (project.folder / "old.ckpt", upgraded)
    )
    for key in ("pytorch-lightning_version", "epoch", "global_step", "loops", "callbacks"):
        assert new[key] == old[key], key
    assert new["lr_schedulers"] == old["lr_schedulers"]
    assert new["hyper_parameters"] == {"weight_decay": 0.3, "seed": 0}


def test_without_the_moments_the_losses_differ(project: Project) -> None:
    old = trained(project.folder)
    upgraded = project.upgrade(project.folder / "old.ckpt", out="new.ckpt")
    content = torch.load(upgraded, weights_only=False)
    for state in content["optimizer_states"][0]["state"].values():
        state["exp_avg"].zero_()
    torch.save(content, upgraded)
    new = NewModule(weight_decay=0.3)
    fit(new, project.folder, BEFORE + AFTER, path=upgraded)
    assert difference(old.losses[BEFORE * EPOCH :], new.losses) > 1e-4


def test_the_average_that_a_callback_keeps_follows_too(project: Project) -> None:
    old = trained(project.folder, EMAWeightAveraging(decay=0.9))
    upgraded = project.upgrade(project.folder / "old.ckpt", out="new.ckpt")
    new = NewModule(weight_decay=0.3)
    averaging = EMAWeightAveraging(decay=0.9)
    fit(new, project.folder, BEFORE + AFTER, [averaging], upgraded)
    assert difference(old.losses[BEFORE * EPOCH :], new.losses) < 1e-9
    # At the end the callback puts the average into the module.
    tokens, labels = new.data()
    one, other = (
        torch.nn.functional.cross_entropy(module.eval()(tokens), labels).item()
        for module in (old, new)
    )
    assert difference([one], [other]) < 1e-9
