"""Folders as training leaves them, with the files that the usual trainers write, by hand.

trainer(tmp_path / "checkpoint-3", model, optimizer)      the Trainer of Hugging Face
accelerated(tmp_path / "state", model, [optimizer])       accelerate's save_state
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["accelerated", "step", "trainer"]


class Arguments:
    """What training_args.bin holds is an object of a class that no list allows."""

    learning_rate = 1e-3


def step(model: nn.Module, optimizer: torch.optim.Optimizer, times: int = 2) -> None:
    """Steps with gradients of chance, so that every state is of its own."""
    for _ in range(times):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def trainer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **more: object) -> Path:
    """What the Trainer saves in `checkpoint-N`; `more` are further files of torch.save."""
    path.mkdir(parents=True)
    save_file(_kept(model), path / "model.safetensors", metadata={"format": "pt"})
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    states = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    files: dict[str, object] = {
        "optimizer.pt": optimizer.state_dict(),
        "scheduler.pt": schedule.state_dict(),
        "rng_state.pth": states,
        "training_args.bin": Arguments(),
        **more,
    }
    for name, content in files.items():
        torch.save(content, path / name)
    (path / "config.json").write_text(json.dumps({"hidden_size": 4}, indent=2) + "\n")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "epoch": 1.0}))
    return path


def accelerated(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *registered: object
) -> Path:
    """What accelerate saves, `registered` objects included."""
    path.mkdir(parents=True)
    save_file(_kept(model), path / "model.safetensors", metadata={"format": "pt"})
    for number, optimizer in enumerate(optimizers):
        name = f"optimizer_{number}.bin" if number else "optimizer.bin"
        torch.save(optimizer.state_dict(), path / name)
    torch.save(
        {"step": 2, "torch_manual_seed": torch.get_rng_state()}, path / "random_states_0.pkl"
    )
    torch.save({"epoch": 0}, path / "sampler.bin")
    for number, content in enumerate(registered):
        torch.save(content, path / f"custom_checkpoint_{number}.pkl")
    return path


def _kept(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model, of tied ones the first."""
    seen: dict[Any, str] = {}
    state: dict[str, Tensor] = model.state_dict()
    return {k: t.contiguous() for k, t in state.items() if seen.setdefault(t.data_ptr(), k) == k}
