"""A callback for the Trainer of Hugging Face `transformers`: it stamps the folders that are saved.

    from ckmigrate.transformers import StampCallback

    trainer = Trainer(model, args, callbacks=[StampCallback()], …)

An older folder is upgraded before the trainer sees it:

    ckmigrate.upgrade(folder, in_place=True)
    trainer.train(resume_from_checkpoint=folder)
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ckmigrate.asking import Place, project_at
from ckmigrate.errors import NotStamped, UsageError, VerificationError
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.stamping import stamp_folder, tag

__all__ = ["StampCallback"]


class StampCallback(TrainerCallback):  # type: ignore[misc]
    """Tags every checkpoint of a trainer with the head that the history had when it began.

    project  whose history; that of the working directory by default

    A model that is not at the head is trained all the same, and its checkpoints are not stamped,
    which is a `NotStamped` warning.
    """

    def __init__(self, *, project: Place | None = None) -> None:
        self._project = project_at(project)
        self._history: History | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **more: Any
    ) -> None:
        """Read the history before the training: later it may be of another version."""
        self._history = None
        try:
            tag(model, project=self._project)
        except VerificationError as error:
            text = f"checkpoints of this run are not stamped: {error}"
            warnings.warn(text, NotStamped, stacklevel=2)
            return
        except UsageError as error:
            # Without a snapshot nothing is known of the head but its name.
            if error.code != "CKM271":
                raise
        self._history = read_history(self._project.migrations)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stamp the folder that was just written; one process does it."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and self._history is not None and folder.is_dir():
            stamp_folder(folder, self._project, self._history)
