"""Fitting Lightning modules, and what a Trainer has when its first step begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.resume.modules import Trained

__all__ = ["EPOCH", "Snapshot", "fit"]

EPOCH = 10
"""Steps of an epoch."""


class Snapshot(pl.Callback):  # type: ignore[misc]
    """Keeps the weights and the state of the optimizer by name as the first step finds them."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.take(trainer, pl_module)

    def take(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        names = {parameter: name for name, parameter in module.named_parameters()}
        self.weights = {n: t.detach().clone() for n, t in module.state_dict().items()}
        self.states = {
            names[parameter]: {k: v.clone() for k, v in state.items()}
            for parameter, state in optimizer.state.items()
        }
        self.rates = {
            names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]
        }


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        gradient_clip_val=1.0,
    )


def fit(
    module: Trained,
    folder: Path,
    epochs: int,
    callbacks: Sequence[pl.Callback] = (),
    path: Path | None = None,
) -> pl.Trainer:
    made = trainer(folder, epochs, *callbacks)
    made.fit(module, DataLoader(TensorDataset(torch.arange(EPOCH))), ckpt_path=path)
    return made
