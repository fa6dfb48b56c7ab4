"""What the callbacks for both packages of Lightning do; neither of them is imported here.

A trainer restores the model before callbacks hear of a checkpoint. So the strategy, which reads and
writes all checkpoints of a trainer, is given other `load_checkpoint` and `save_checkpoint`: the
first leads the old one to a migrated copy in a temporary folder, and that is all that the trainer
then sees.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ckmigrate.asking import Place, Resuming, project_at
from ckmigrate.errors import (
    MigratedOnLoad,
    NotStamped,
    StorageError,
    UsageError,
    VerificationError,
)
from ckmigrate.execute.preflight import Destination
from ckmigrate.formats.torch_tag import TAG_KEY
from ckmigrate.loading import hint_of, prepare_for
from ckmigrate.migrate import carry_out
from ckmigrate.stamping import tag

__all__ = ["Hooks"]

_MARK = "_ckmigrate_hooks"


class Hooks:
    """The callback, but for its base class.

    upgrade    lead an old checkpoint to the head when the trainer loads it
    stamp      tag every checkpoint that the trainer saves, unless the model is not at the head
    folder     where the migrated copy is for a moment; the system's temporary folder by default
    project    whose history; that of the working directory by default
    options    as for `ckmigrate.upgrade`: from_revision, optimizer, ema, …
    """

    def __init__(
        self,
        *,
        upgrade: bool = True,
        stamp: bool = True,
        folder: str | os.PathLike[str] | None = None,
        project: Place | None = None,
        **options: Unpack[Resuming],
    ) -> None:
        super().__init__()
        self._upgrades, self._stamps = upgrade, stamp
        self._folder = Path(folder) if folder is not None else Path(tempfile.gettempdir())
        # Found now: a trainer may change the working directory.
        self._project = project_at(project)
        self._options = options
        self._tag: str | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before anything is loaded."""
        strategy = trainer.strategy
        if getattr(strategy, _MARK, None) is self:
            return
        setattr(strategy, _MARK, self)
        if self._upgrades:
            strategy.load_checkpoint = self._loading(trainer, strategy.load_checkpoint)
        if self._stamps:
            strategy.save_checkpoint = self._saving(trainer, strategy.save_checkpoint)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The tag is that of the code that trains, not of what is there when it saves."""
        self._find_tag(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Stamp."""
        if self._stamps:
            self._stamp(trainer, pl_module, checkpoint)

    # --- saving -------------------------------------------------------------------------------

    def _saving(self, trainer: Any, save: Callable[..., None]) -> Callable[..., None]:
        def stamped(checkpoint: dict[str, Any], *args: Any, **more: Any) -> None:
            # Callbacks do not hear of checkpoints that hold the weights only.
            self._stamp(trainer, trainer.lightning_module, checkpoint)
            save(checkpoint, *args, **more)

        return stamped

    def _stamp(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        text = self._find_tag(trainer, module)
        if text:
            checkpoint[TAG_KEY] = text

    def _find_tag(self, trainer: Any, module: Any) -> str:
        """The tag, or "" where the model is not at the head, which is a warning once."""
        if self._tag is None and self._stamps:
            self._tag = self._made_tag(None if _is_spread(trainer) else module)
        return self._tag or ""

    def _made_tag(self, module: Any) -> str:
        try:
            return tag(module, project=self._project)[TAG_KEY]
        except UsageError as error:
            if error.code != "CKM271":
                raise
            # Without a snapshot nothing is known of the head but its name.
            return tag(project=self._project)[TAG_KEY]
        except VerificationError as error:
            text = f"checkpoints of this run are not stamped: {error}"
            warnings.warn(text, NotStamped, stacklevel=2)
            return ""

    # --- loading ------------------------------------------------------------------------------

    def _loading(self, trainer: Any, load: Callable[..., Any]) -> Callable[..., Any]:
        def migrated(checkpoint_path: Any, *args: Any, **more: Any) -> Any:
            with self._readable(trainer, checkpoint_path) as path:
                return load(path, *args, **more)

        return migrated

    @contextmanager
    def _readable(self, trainer: Any, path: Any) -> Iterator[Any]:
        """The checkpoint, or its migrated copy. One process of each machine makes the copy."""
        strategy = trainer.strategy
        folder = self._folder / f"ckmigrate-{strategy.broadcast(secrets.token_hex(8))}"
        error: Exception | None = None
        if trainer.local_rank == 0:
            try:
                self._copy(trainer, path, folder)
            except Exception as failure:  # noqa: BLE001 - the other processes wait to hear of it
                error = failure
        is_done = strategy.reduce_boolean_decision(error is None, all=True)
        copy = folder / Path(path).name
        try:
            if error is not None:
                raise error
            if not is_done:
                raise _failed_elsewhere(path)
            yield copy if copy.exists() else path
            strategy.barrier("ckmigrate")
        finally:
            if trainer.local_rank == 0:
                shutil.rmtree(folder, ignore_errors=True)

    def _copy(self, trainer: Any, path: Any, folder: Path) -> None:
        """Write the migrated copy into a new folder; nothing where nothing is pending."""
        source, options = _local(path), self._options.copy()
        if trainer.state.fn.value != "fit":
            # Only training resumes with it.
            options["optimizer"] = "drop"
        # Parts of a model that is spread over processes could not be compared by one of them.
        module = None if _is_spread(trainer) else trainer.lightning_module
        prepared = prepare_for(module, source, self._project, options)
        if not prepared.plan.trace.scripts:
            return
        warnings.warn(hint_of(prepared), MigratedOnLoad, stacklevel=2)
        folder.mkdir(mode=0o700)
        # The trainer loads it strictly itself, and more of it than the weights.
        prepared = replace(prepared, target=None)
        carry_out(prepared, Destination(folder / source.name, folder=source.is_dir()))


def _is_spread(trainer: Any) -> bool:
    """Whether processes hold parts of the model once it is set up (FSDP, DeepSpeed)."""
    return bool(trainer.strategy.restore_checkpoint_after_setup)


def _local(path: Any) -> Path:
    if "://" in str(path):
        raise UsageError(
            "CKM272",
            "a checkpoint that is not on a file system here cannot be migrated when it is loaded",
            where=str(path),
            fix="Copy it here first; or keep the callback from it with upgrade=False.",
        )
    return Path(path)


def _failed_elsewhere(path: Any) -> StorageError:
    return StorageError(
        "CKM796",
        "another process could not migrate the checkpoint",
        where=str(path),
        why="One process of each machine does it for the others; it has raised the error.",
        fix="See its output.",
    )
