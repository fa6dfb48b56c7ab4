"""The next steps of training from a checkpoint: weights, optimizer and schedule are its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

from examples.digits import optimizer as optimizers
from examples.digits.evaluate import HERE, load

__all__ = ["BATCH", "NEXT", "next_losses"]

BATCH = 64
NEXT = HERE / "data" / "next.safetensors"


def next_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Images [64, 1, 8, 8] and labels [64] that training would have seen next."""
    tensors = load_file(NEXT)
    images = tensors["images"].unsqueeze(1).float()
    yield from zip(torch.split(images, BATCH), torch.split(tensors["labels"], BATCH), strict=True)


def is_trained(name: str) -> bool:
    """Whether a parameter of either architecture learns in these steps: the same ones in both, so
    that both take the same steps. Pruned weights would grow again, and new layers learn."""
    return ".blocks." in name and not any(part in name for part in (".proj.", ".ls", ".adapter."))


def next_losses(path: Path, architecture: str, *, forget: bool = False) -> list[float]:
    """The losses of the next steps; `forget` takes them without the optimizer's moments."""
    model = load(path, architecture).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))
    optimizer = optimizers.build(model)
    schedule = CosineAnnealingLR(optimizer, 1)
    saved = torch.load(path, weights_only=True)
    optimizer.load_state_dict({**saved["optimizer"], "state": {}} if forget else saved["optimizer"])
    schedule.load_state_dict(saved["scheduler"])
    losses = []
    for images, labels in next_batches():
        # Release 1.0 has six further classes, which no image belongs to.
        loss = cross_entropy(model(images)[:, :10], labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
