"""A callback for trainers of the package `lightning`.

from ckmigrate.lightning import CheckpointMigration

trainer = Trainer(callbacks=[CheckpointMigration()])
trainer.fit(model, ckpt_path="old.ckpt")
"""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback

from ckmigrate.lightning_hooks import Hooks

__all__ = ["CheckpointMigration"]


class CheckpointMigration(Hooks, Callback):  # type: ignore[misc]
    """Stamps what the trainer saves, and migrates what it loads; see `Hooks` for the arguments."""
