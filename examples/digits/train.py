"""Train release 1.0 on the UCI optical digits: `python -m examples.digits.train`.

Writes the checkpoint, the held-out images and the batches that would have come next: release 1.0
is training that stopped after 40 of 50 epochs. Needs scikit-learn, which carries the data set. The
seeds are fixed; another version of torch may still give other weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim.lr_scheduler import CosineAnnealingLR

from examples.digits import optimizer as optimizers
from examples.digits.evaluate import CHECKPOINT, HELDOUT, accuracy
from examples.digits.history import v1_0
from examples.digits.resume import BATCH, NEXT

__all__ = ["main"]

EPOCHS, PLANNED, PRUNE_AT, HELDOUT_COUNT, NEXT_COUNT = 40, 50, 25, 360, 8


def split_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, held-out images (uint8 [N, 8, 8]), training labels, held-out labels."""
    digits = load_digits()
    parts = train_test_split(
        digits.images.astype("uint8"),
        digits.target.astype("int64"),
        test_size=HELDOUT_COUNT,
        random_state=0,
        stratify=digits.target,
    )
    images, heldout_images, labels, heldout_labels = (torch.from_numpy(part) for part in parts)
    return images, heldout_images, labels, heldout_labels


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch of images [B, 1, 8, 8] with a little noise, and labels [B]."""
    for chosen in torch.split(torch.randperm(len(images)), BATCH):
        clean = images[chosen].unsqueeze(1).float()
        yield (clean + torch.randn_like(clean)).clamp(0, 16), labels[chosen]


def prune_projections(model: nn.Module) -> None:
    """Switch off the smallest third of every attention output projection."""
    for name, module in model.named_modules():
        if name.endswith("attn.proj"):
            prune.l1_unstructured(module, "weight", amount=1 / 3)  # type: ignore[no-untyped-call]


def train(model: v1_0.Digits, images: Tensor, labels: Tensor) -> dict[str, object]:
    """Fit digit and parity; prune on the way, so that the rest can adapt. The state of both the
    optimizer and the schedule, as they are after the last epoch."""
    optimizer = optimizers.build(model)
    steps = -(-len(images) // BATCH)
    schedule = CosineAnnealingLR(optimizer, PLANNED * steps)
    model.train()
    for epoch in range(EPOCHS):
        if epoch == PRUNE_AT:
            prune_projections(model)
        for batch, target in batches(images, labels):
            loss = cross_entropy(model(batch), target, label_smoothing=0.05)
            loss = loss + 0.2 * cross_entropy(model.parity(batch), target % 2)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}


def main() -> None:
    """Train, measure on the held-out images, write the three files."""
    torch.manual_seed(10)
    images, heldout_images, labels, heldout_labels = split_digits()
    save_file({"images": heldout_images, "labels": heldout_labels}, HELDOUT)
    model = v1_0.Digits()
    state = train(model, images, labels)
    measured = accuracy(model)
    config = {"dim": v1_0.DIM, "depth": v1_0.DEPTH, "heads": v1_0.HEADS}
    checkpoint = {"state_dict": model.state_dict(), **state, "epoch": EPOCHS, "config": config}
    torch.save({**checkpoint, "accuracy": measured}, CHECKPOINT)
    chosen = torch.randperm(len(images))[: NEXT_COUNT * BATCH]
    save_file({"images": images[chosen], "labels": labels[chosen]}, NEXT)
    print(f"held-out accuracy {measured:.2%}, written to {CHECKPOINT}")


if __name__ == "__main__":
    main()
