"""The callback for Lightning: trained, saved, refactored, loaded, trained on by the real trainer.

What both packages have in common is tested with the one that is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ckmigrate import CkmigrateError, MigratedOnLoad
from ckmigrate.errors import NotStamped
from tests.cli_project import ROOT
from tests.projects import Zoo, names_in, revision

pytest.importorskip("pytorch_lightning", reason="Lightning is not installed; CI has it")

import pytorch_lightning as pl

from ckmigrate.pytorch_lightning import CheckpointMigration

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)

SCRIPT = """
ck.rename("net.{p}", "body.{p}")
ck.meta.rename("hyper_parameters.width", "hyper_parameters.size")
"""


class Base(pl.LightningModule):  # type: ignore[misc]
    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def test_step(self, batch: Any, index: int) -> None:
        self.log("loss", nn.functional.mse_loss(self(batch[0]), batch[1]))


class Old(Base):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(2, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sum(self.net(x), 1, keepdim=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


class New(Old):
    def __init__(self, size: int = 4) -> None:
        Base.__init__(self)
        self.save_hyperparameters()
        self.body = nn.Linear(2, size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sum(self.body(x), 1, keepdim=True)


def data() -> DataLoader[Any]:
    torch.manual_seed(1)
    x = torch.randn(16, 2)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)


def trainer(folder: Path, *callbacks: Any, epochs: int = 2, **more: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        callbacks=list(callbacks),
        **more,
    )


def trained(folder: Path, *callbacks: Any) -> tuple[Path, Old]:
    """A checkpoint of the old model after two epochs."""
    torch.manual_seed(3)
    module, run = Old(), trainer(folder, *callbacks)
    run.fit(module, data())
    run.save_checkpoint(folder / "old.ckpt")
    return folder / "old.ckpt", module


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo", SCRIPT, base=Old().state_dict())


def test_an_old_checkpoint_is_resumed(zoo: Zoo, tmp_path: Path) -> None:
    path, old = trained(tmp_path)
    before, temporary = path.read_bytes(), tmp_path / "temporary"
    temporary.mkdir()
    callback = CheckpointMigration(project=zoo.folder, folder=temporary)
    new, run = New(), trainer(tmp_path, callback, epochs=4)
    with pytest.warns(MigratedOnLoad, match="old.ckpt is at base"):
        run.fit(new, data(), ckpt_path=path)
    assert (run.current_epoch, run.global_step) == (4, 8)
    # The same as if the architecture had not changed: moments, step counts and all.
    trainer(tmp_path, epochs=4).fit(old, data(), ckpt_path=path)
    assert torch.equal(new.body.weight, old.net.weight)
    assert path.read_bytes() == before
    assert names_in(temporary) == []


def test_the_function_that_makes_the_optimizer_is_asked_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "making.py").write_text(
        "import torch\ndef make(model):\n    return torch.optim.AdamW(model.parameters())\n"
    )
    config = 'optimizer = "making:make"\n'
    zoo = Zoo(tmp_path / "zoo", SCRIPT, base=Old().state_dict(), config=config)
    monkeypatch.syspath_prepend(str(tmp_path))
    path, old = trained(tmp_path)
    new, run = New(), trainer(tmp_path, CheckpointMigration(project=zoo.folder), epochs=4)
    with pytest.warns(MigratedOnLoad):
        run.fit(new, data(), ckpt_path=path)
    trainer(tmp_path, epochs=4).fit(old, data(), ckpt_path=path)
    assert torch.equal(new.body.weight, old.net.weight)


@pytest.mark.filterwarnings("ignore::ckmigrate.MigratedOnLoad")
def test_an_old_checkpoint_is_evaluated(zoo: Zoo, tmp_path: Path) -> None:
    path, old = trained(tmp_path)
    (wanted,) = trainer(tmp_path).test(old, data(), verbose=False)
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder))
    assert run.test(New(), data(), ckpt_path=path, verbose=False) == [wanted]


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_at_the_head_is_the_one_that_is_loaded(zoo: Zoo, tmp_path: Path) -> None:
    model, run = New(), trainer(tmp_path, CheckpointMigration(project=zoo.folder))
    run.fit(model, data())
    run.save_checkpoint(tmp_path / "new.ckpt")
    seen: list[Any] = []
    again = trainer(tmp_path, CheckpointMigration(project=zoo.folder), epochs=3)
    load = again.strategy.load_checkpoint

    def watched(path: Any, **more: Any) -> Any:
        seen.append(path)
        return load(path, **more)

    again.strategy.load_checkpoint = watched
    again.fit(New(), data(), ckpt_path=tmp_path / "new.ckpt")
    assert seen == [tmp_path / "new.ckpt"]
    assert again.current_epoch == 3


# --- stamping ---------------------------------------------------------------------------------


def identity(zoo: Zoo, path: Path) -> tuple[str | None, str]:
    """Where a file is, and by what."""
    found = zoo.prepare(path, zoo.request(path, optimizer="drop")).identity
    return found.revision, found.evidence


@pytest.mark.parametrize("weights_only", [True, False])
def test_what_the_trainer_saves_is_stamped(zoo: Zoo, tmp_path: Path, weights_only: bool) -> None:
    saving = pl.callbacks.ModelCheckpoint(
        tmp_path / "run", "during", save_weights_only=weights_only
    )
    run = trainer(tmp_path, saving, CheckpointMigration(project=zoo.folder))
    run.fit(New(), data())
    run.save_checkpoint(tmp_path / "after.ckpt", weights_only=weights_only)
    for name in ("run/during.ckpt", "after.ckpt"):
        assert identity(zoo, tmp_path / name) == (revision(1), "tag")
    content = torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert content["pytorch-lightning_version"] == pl.__version__


def test_the_tag_is_that_of_the_code_that_began_to_train(zoo: Zoo, tmp_path: Path) -> None:
    class Meanwhile(pl.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                zoo.add(2, 'ck.rename("body.{p}", "trunk.{p}")')

    run = trainer(tmp_path, Meanwhile(), CheckpointMigration(project=zoo.folder))
    run.fit(New(), data())
    run.save_checkpoint(tmp_path / "new.ckpt")
    assert identity(zoo, tmp_path / "new.ckpt") == (revision(1), "tag")


def test_a_model_that_moved_on_is_not_stamped_and_says_so_once(zoo: Zoo, tmp_path: Path) -> None:
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder))
    with pytest.warns(NotStamped, match="CKM622"):
        run.fit(New(size=5), data())
    run.save_checkpoint(tmp_path / "new.ckpt")
    assert "ckmigrate" not in torch.load(tmp_path / "new.ckpt", weights_only=True)


def test_without_a_snapshot_the_model_is_believed(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo", SCRIPT)
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder))
    run.fit(New(), data())
    run.save_checkpoint(tmp_path / "new.ckpt")
    assert identity(zoo, tmp_path / "new.ckpt") == (revision(1), "tag")


def test_both_halves_can_be_left_out(zoo: Zoo, tmp_path: Path) -> None:
    path, _ = trained(tmp_path, CheckpointMigration(project=zoo.folder, stamp=False))
    assert "ckmigrate" not in torch.load(path, weights_only=True)
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder, upgrade=False))
    with pytest.raises(RuntimeError, match="Missing key"):
        run.test(New(), data(), ckpt_path=path)


# --- failures ---------------------------------------------------------------------------------


def test_what_cannot_be_migrated_is_not_loaded(zoo: Zoo, tmp_path: Path) -> None:
    path, _ = trained(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder, folder=temporary))
    with pytest.raises(CkmigrateError) as caught:
        run.test(New(size=5), data(), ckpt_path=path)
    assert caught.value.code == "CKM601"
    assert names_in(temporary) == []


def test_a_checkpoint_elsewhere_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    run = trainer(tmp_path, CheckpointMigration(project=zoo.folder))
    with pytest.raises(CkmigrateError) as caught:
        run.test(New(), data(), ckpt_path="memory://old.ckpt")
    assert caught.value.code == "CKM272"


def test_without_a_project_it_fails_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CkmigrateError) as caught:
        CheckpointMigration()
    assert caught.value.code == "CKM201"


# --- several processes ------------------------------------------------------------------------

RANKS = """
import sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
import pytorch_lightning as pl
from ckmigrate.pytorch_lightning import CheckpointMigration
from tests.test_lightning import New, data

root = Path(sys.argv[1])
callback = CheckpointMigration(project=root / "zoo", folder=root / "temporary")
run = pl.Trainer(default_root_dir=root, accelerator="cpu", devices=2, strategy="ddp", max_epochs=3,
    logger=False, enable_progress_bar=False, enable_checkpointing=False, callbacks=[callback])
model = New()
run.fit(model, data(), ckpt_path=root / "old.ckpt")
run.save_checkpoint(root / "new.ckpt")
(root / f"rank-{run.global_rank}").write_text(f"{run.current_epoch} {model.body.weight.sum()}")
"""


@pytest.mark.slow
def test_two_processes_resume_from_one_copy(zoo: Zoo, tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "temporary").mkdir()
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    first, second = ((tmp_path / f"rank-{number}").read_text() for number in (0, 1))
    assert first == second
    assert first.startswith("3 ")
    assert names_in(tmp_path / "temporary") == []
    assert identity(zoo, tmp_path / "new.ckpt") == (revision(1), "tag")
