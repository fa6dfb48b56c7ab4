"""The optimizer of every release: `[tool.ckmigrate]` names it, and `upgrade` reads the groups."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

__all__ = ["RATE", "build"]

RATE = 3e-3


def build(model: nn.Module) -> AdamW:
    """AdamW with weight decay on what has two dimensions or more, and none on the rest."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim >= 2]
    rest = [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    return AdamW(groups, lr=RATE)
