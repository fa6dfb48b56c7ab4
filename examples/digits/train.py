"""Train release 1.0 on the UCI optical digits: `python -m examples.digits.train`.

Writes the checkpoint and the held-out images. Needs scikit-learn, which carries the data set. The
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

from examples.digits.evaluate import CHECKPOINT, HELDOUT, accuracy
from examples.digits.history import v1_0

__all__ = ["main"]

EPOCHS, PRUNE_AT, BATCH, HELDOUT_COUNT = 40, 25, 64, 360


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


def train(model: v1_0.Digits, images: Tensor, labels: Tensor) -> None:
    """Fit digit and parity; prune on the way, so that the rest can adapt."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
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


def main() -> None:
    """Train, measure on the held-out images, write both files."""
    torch.manual_seed(10)
    images, heldout_images, labels, heldout_labels = split_digits()
    save_file({"images": heldout_images, "labels": heldout_labels}, HELDOUT)
    model = v1_0.Digits()
    train(model, images, labels)
    measured = accuracy(model)
    config = {"dim": v1_0.DIM, "depth": v1_0.DEPTH, "heads": v1_0.HEADS}
    checkpoint = {"state_dict": model.state_dict(), "epoch": EPOCHS, "config": config}
    torch.save({**checkpoint, "accuracy": measured}, CHECKPOINT)
    print(f"held-out accuracy {measured:.2%}, written to {CHECKPOINT}")


if __name__ == "__main__":
    main()
