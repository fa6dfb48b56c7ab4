"""`ckmigrate.load`: a checkpoint of any revision into the model of today.

The file that `upgrade` would write, without what is beside the weights, is made in memory and read
by torch; the model is loaded with it only then. Nothing is changed on any disk.
"""

from __future__ import annotations

import os
import pickle
import shlex
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ckmigrate.asking import Place, Reading, Resuming, make_request, project_at
from ckmigrate.errors import MigratedOnLoad, UsageError, VerificationError
from ckmigrate.execute.commit import check_unchanged, write_image
from ckmigrate.execute.failures import explained
from ckmigrate.execute.fill import check_claims, fill
from ckmigrate.execute.source import open_source
from ckmigrate.formats.tree_paths import child
from ckmigrate.live_module import load_into
from ckmigrate.migrate import Prepared, build_output, layout_after, prepare
from ckmigrate.project import Project
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import read_history
from ckmigrate.target import bare_module, target_of
from ckmigrate.target_optimizer import groups_of, make_groups

if TYPE_CHECKING:
    import torch

__all__ = ["hint_of", "load", "prepare_for"]

Model = TypeVar("Model", bound="torch.nn.Module")
MapLocation = Any
"""As `torch.load` takes it: a device, its name, a dict of names, or a function."""


def load(
    path: str | os.PathLike[str],
    model: Model,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    map_location: MapLocation = "cpu",
    project: Place | None = None,
    **options: Unpack[Reading],
) -> Model:
    """Load a checkpoint strictly into a model, migrated to the head first; the same model.

    The model says what the result must be; no factory is called. It may be wrapped (DDP,
    torch.compile), and on the meta device, whose entries get memory at `map_location`. Everything
    but the values of its entries stays what it is: the tensors, their devices and dtypes.

    An optimizer of this model gets the state of the one in the checkpoint, which follows the
    weights; several, those of several in their order. What else is in the file is not loaded.

    A checkpoint that is behind is a `MigratedOnLoad` warning. Where anything fails, the entries of
    the model, and the optimizer, are as they were. Raises the CkmigrateError of whatever stands in
    the way: VerificationError CKM601 where the result would not fit, CKM611 to CKM614 of the strict
    load, UsageError CKM273 where the file does not hold the state of as many optimizers.
    """
    found = project_at(project)
    bare = bare_module(model, found.wrappers)
    wanted = _listed(optimizer)
    more = {"ema": "drop"} if wanted else {"weights_only": True}
    prepared = prepare_for(bare, Path(path), found, options, wanted, unwrap=True, **more)
    places = _optimizer_places(prepared, len(wanted))
    content = _migrated(prepared, map_location)
    states = [child(content, place) for place in places]
    if prepared.plan.trace.scripts:
        # Before the model is touched: a warning may be an error.
        warnings.warn(hint_of(prepared), MigratedOnLoad, stacklevel=2)
    assert prepared.target is not None
    with _optimizers_loaded(wanted, states):
        load_into(bare, _weights(content, prepared), prepared.target, exempt=found.exempt)
    return model


def prepare_for(
    model: torch.nn.Module | None,
    path: Path,
    project: Project,
    options: Reading | Resuming,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    **more: Any,
) -> Prepared:
    """Decide the migration to the head for a model that is there, which is its target.

    model       None to compare with the committed snapshot
    optimizers  of the model, whose groups say what is counted how; without, the project's code
    more        further fields of the request
    """
    history = read_history(project.migrations)
    request = make_request(options, use_model=model is not None, **more)
    if model is None:
        return prepare(project, history, path, request)
    groups = None
    if optimizers:
        groups = groups_of(optimizers, model, "the given one")
    elif project.optimizer is not None and not request.weights_only:
        groups = make_groups(project.optimizer, model, python_path=project.python_path)
    target = replace(target_of(model, "the given one"), groups=groups)
    return prepare(project, history, path, request, find=lambda *_: target)


def _listed(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
) -> Sequence[torch.optim.Optimizer]:
    if optimizer is None:
        return ()
    return optimizer if isinstance(optimizer, Sequence) else (optimizer,)


def _optimizer_places(prepared: Prepared, count: int) -> list[tuple[object, ...]]:
    """Where the state of the optimizers is; UsageError CKM273 where there are not so many."""
    layout = layout_after(prepared)
    found = [o.path for o in layout.training_state if o.kind == "optimizer"] if count else []
    if len(found) == count and not (count and prepared.opened.stored.is_flat):
        return found
    raise UsageError(
        "CKM273",
        f"the file holds the state of {len(found)} optimizers, and {count} are to be loaded"
        if not prepared.opened.stored.is_flat
        else "the file holds weights alone",
        where=str(prepared.opened.stored.path),
        fix="Give as many optimizers as were saved, in their order. State in files beside the "
        "weights is migrated by ckmigrate.upgrade.",
    )


def _weights(content: Mapping[str, object], prepared: Prepared) -> Mapping[str, object]:
    """The state dict in what was made: at its place, or alone."""
    if prepared.request.weights_only or prepared.opened.stored.is_flat:
        return content
    layout = layout_after(prepared)
    found = child(content, layout.path)
    assert isinstance(found, dict)
    return found


@contextmanager
def _optimizers_loaded(
    optimizers: Sequence[torch.optim.Optimizer], states: Sequence[Any]
) -> Iterator[None]:
    """Optimizers with new state inside, and afterwards too unless something fails there."""
    before = [one.state_dict() for one in optimizers]
    try:
        for one, state in zip(optimizers, states, strict=True):
            try:
                one.load_state_dict(state)
            except (ValueError, KeyError, TypeError) as error:
                raise VerificationError(
                    "CKM614",
                    "the optimizer does not take the state that was saved",
                    why=f"{type(error).__name__}: {error}",
                    fix="Give one that is made as today's training makes it.",
                ) from error
        yield
    except BaseException:
        for one, state in zip(optimizers, before, strict=True):
            one.load_state_dict(state)
        raise


def hint_of(prepared: Prepared) -> str:
    """What was done in memory, and how to have it for good."""
    history, scripts = prepared.history, prepared.plan.trace.scripts
    path = str(prepared.opened.stored.path)
    start = revision_text(history, prepared.identity.revision)
    return (
        f"{path} is at {start} and was migrated for this run "
        f"({counted(len(scripts), 'migration')}), as it will be each time; to make it permanent: "
        f"ckmigrate upgrade {shlex.quote(path)} --in-place"
    )


def _migrated(prepared: Prepared, map_location: MapLocation) -> Mapping[str, object]:
    """The state dict of the result, under bare names, as torch reads it."""
    import torch

    with _in_memory(prepared) as path:
        try:
            state: Mapping[str, object] = torch.load(
                path, map_location=map_location, weights_only=True, mmap=True
            )
        except pickle.UnpicklingError as error:
            raise VerificationError(
                "CKM613",
                "extra state of the model is not plain data",
                where=str(prepared.opened.stored.path),
                why=str(error).splitlines()[0],
                fix="Upgrade the file (ckmigrate upgrade) and load the result with torch.load.",
            ) from error
    return state


@contextmanager
def _in_memory(prepared: Prepared) -> Iterator[str]:
    """A torch file of the weights of the result, which has no name on any disk."""
    stored = prepared.opened.stored
    # A file that keeps its suffix would keep its format.
    name = Path("weights.pth" if stored.path.suffix == ".pt" else "weights.pt")
    output = build_output(prepared, name)
    (file,) = output.files.values()
    with _anonymous() as fd:
        with (
            explained(stored.path),
            open_source(stored, output.tensors) as source,
        ):
            check_unchanged(stored.files)
            check_claims(prepared.plan.checks, source)
            write_image(
                fd, file.image, lambda at: fill(at, file.image, file.work, source, _unheard)
            )
            check_unchanged(stored.files)
        yield f"/dev/fd/{fd}"


@contextmanager
def _anonymous() -> Iterator[int]:
    """A descriptor of memory; where the system has none for that, of a file without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("ckmigrate", os.MFD_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def _unheard(nbytes: int) -> None:
    """Nobody asks how far it is."""
