"""Accuracy on the held-out digits: `python -m examples.digits.evaluate CHECKPOINT`."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = [
    "ARCHITECTURES",
    "CHECKPOINT",
    "HELDOUT",
    "accuracy",
    "build",
    "heldout",
    "load",
    "logits",
    "state_dict_of",
]

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoints" / "digits-1.0.pt"
HELDOUT = HERE / "data" / "heldout.safetensors"
ARCHITECTURES = (*sorted(path.stem for path in HERE.glob("history/v*.py")), "current")


def build(architecture: str) -> nn.Module:
    """An untrained model of one of `ARCHITECTURES`."""
    name = "model" if architecture == "current" else f"history.{architecture}"
    model: nn.Module = importlib.import_module(f"examples.digits.{name}").build()
    return model


def heldout() -> tuple[Tensor, Tensor]:
    """Images as float [N, 1, 8, 8] with values 0…16, and labels [N]."""
    tensors = load_file(HELDOUT)
    return tensors["images"].unsqueeze(1).float(), tensors["labels"]


def logits(model: nn.Module) -> Tensor:
    """What the model, in evaluation mode, says to the held-out images: [N, classes]."""
    images, _ = heldout()
    with torch.inference_mode():
        answer: Tensor = model.eval()(images)
    return answer


def accuracy(model: nn.Module) -> float:
    """Share of the held-out images whose largest logit is the right class."""
    _, labels = heldout()
    return (logits(model).argmax(dim=1) == labels).double().mean().item()


def state_dict_of(path: Path) -> dict[str, Tensor]:
    """The weights in a .safetensors file, or under "state_dict" in a torch checkpoint."""
    if path.suffix == ".safetensors":
        return load_file(path)
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights


def load(path: Path, architecture: str = "current") -> nn.Module:
    """The model of that architecture with the checkpoint's weights; RuntimeError if they differ."""
    model = build(architecture)
    model.load_state_dict(state_dict_of(path), strict=True)
    return model


def main() -> None:
    """Print the accuracy of one checkpoint."""
    parser = argparse.ArgumentParser(description="accuracy of a checkpoint on the held-out digits")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="current")
    options = parser.parse_args()
    print(f"{accuracy(load(options.checkpoint, options.architecture)):.4%}")


if __name__ == "__main__":
    main()
