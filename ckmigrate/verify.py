"""Reading a result as a stranger would, before it gets its name."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.errors import MigrationError, StorageError, VerificationError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.spec import DType, Schema
from ckmigrate.strict import compare, describe
from ckmigrate.target import strict_load
from ckmigrate.training.layouts import Layout, find_weights

if TYPE_CHECKING:
    import torch

    from ckmigrate.formats.base import Stored
    from ckmigrate.formats.tree import Tensor
    from ckmigrate.opened import Opened
    from ckmigrate.output import Output
    from ckmigrate.prepare import Prepared
    from ckmigrate.revisions.script import Script

__all__ = ["loaded_tensors", "run_script_verify", "strictly_loads", "verify_file"]


def verify_file(path: Path, prepared: Prepared, output: Output) -> None:
    """Read the file again: its tag, its schema, then a strict load into a fresh model.

    VerificationError CKM602 where the tag, CKM603 where the tensors are not what was planned,
    CKM605 where names would be taken for a wrapper's. StorageError where the weights would not be
    found again.
    """
    request, project = prepared.request, prepared.project
    stored = open_checkpoint(path, carry=(*project.carry, *request.carry))
    if stored.tag != prepared.tag.to_json():
        raise _broken("CKM602", "the tag is not the one that was written")
    layout = _found_again(stored, prepared)
    found = Schema((name, tensor.spec) for name, tensor in layout.entries.items())
    if found != prepared.plan.schema:
        lines = describe(compare(found, prepared.plan.schema))
        raise _broken("CKM603", "the tensors are not the ones that were planned", lines)
    if prepared.target is not None:
        strictly_loads(path, stored, layout.entries, prepared)
    if request.full_verify:
        for traced in prepared.plan.trace.scripts:
            run_script_verify(traced.script, prepared.opened, path, stored, layout.entries)


def _found_again(stored: Stored, prepared: Prepared) -> Layout:
    """The weights where the next run will look for them."""
    request, project, source = prepared.request, prepared.project, prepared.opened
    keeps_place = stored.format == source.stored.format == "torch" and not request.weights_only
    weights = (request.weights or project.weights) if keeps_place else None
    try:
        layout = find_weights(stored, weights=weights, wrappers=project.wrappers)
    except StorageError as error:
        # Of the file that the user knows, not of one that is gone in a moment.
        error.where = f"{source.stored.path}, as it would be written"
        raise
    written = "" if request.unwrap else source.layout.prefix
    if layout.prefix != written:
        raise VerificationError(
            "CKM605",
            f"every name of the result begins with '{layout.prefix}', which counts as a wrapper's",
            where=str(source.stored.path),
            why="The next run would leave it out of the names, and fit no revision.",
            fix="Name the wrappers of this project in its configuration (wrappers = [] for none), "
            "or choose other names in the migration. Nothing was written.",
        )
    return layout


def _broken(code: str, what: str, details: tuple[str, ...] = ()) -> VerificationError:
    return VerificationError(
        code,
        f"the result reads back differently: {what}",
        details=details,
        why="The file was written and read again before it got its name.",
        fix="Nothing was kept. Please report this with the plan: it is a defect of ckmigrate.",
    )


def strictly_loads(
    path: Path, stored: Stored, entries: Mapping[str, Tensor], prepared: Prepared
) -> None:
    """`load_state_dict(strict=True)` of a fresh model with the file's own tensors."""
    target, project = prepared.target, prepared.project
    assert target is not None
    exempt = _exempt(tuple(target.schema), project.exempt) | _exempt(tuple(entries), project.exempt)
    with loaded_tensors(path, stored, entries) as tensors:
        given = {name: tensor for name, tensor in tensors.items() if name not in exempt}
        strict_load(
            target.factory,
            target.model,
            given,
            python_path=project.python_path,
            complete_ties=True,
            exempt=exempt,
        )


def _exempt(names: tuple[str, ...], patterns: tuple[str, ...]) -> frozenset[str]:
    from ckmigrate.names import compile_pattern

    compiled = [compile_pattern(pattern) for pattern in patterns]
    return frozenset(n for n in names if any(p.match(n) is not None for p in compiled))


@contextmanager
def loaded_tensors(
    path: Path, stored: Stored, entries: Mapping[str, Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a checkpoint as torch sees them.

    Plain ones are views of the mapped file, others are copies; valid inside the block only.
    """
    from ckmigrate.execute.source import SourceFile
    from ckmigrate.formats.open_checkpoint import open_regular

    fd = open_regular(path)
    try:
        source = SourceFile(fd, stored, entries)
        size = os.fstat(fd).st_size
        mapped = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        yield {name: _tensor(name, tensor, source, mapped) for name, tensor in entries.items()}
    finally:
        os.close(fd)


def _tensor(name: str, tensor: Tensor, source: object, mapped: mmap.mmap) -> torch.Tensor:
    import torch

    from ckmigrate.execute.source import SourceFile

    assert isinstance(source, SourceFile)
    spec = tensor.spec
    dtype = getattr(torch, spec.dtype.torch_name or "uint8")
    shape = list(spec.shape)
    if spec.dtype is DType.F4 and shape:
        shape[-1] //= 2
    if spec.numel == 0:
        return torch.empty(shape, dtype=dtype)
    if source.is_plain(name):
        flat = torch.frombuffer(
            mapped, dtype=torch.uint8, count=spec.nbytes, offset=source.offset(name)
        )
    else:
        data = bytearray(source.read(name, 0, spec.numel))
        flat = torch.frombuffer(data, dtype=torch.uint8)
    if spec.dtype.torch_name is None:
        return flat
    return flat.view(dtype).reshape(shape)


def run_script_verify(
    script: Script,
    before: Opened,
    path: Path,
    stored: Stored,
    entries: Mapping[str, Tensor],
) -> bool:
    """Run the `verify(old, new)` of a script on real tensors; False where it has none.

    VerificationError CKM604 where it raises or returns False.
    """
    check = script.load().verify
    if check is None:
        return False
    with (
        loaded_tensors(before.stored.path, before.stored, before.layout.entries) as old,
        loaded_tensors(path, stored, entries) as new,
    ):
        try:
            verdict = check(old, new)
        except MigrationError:
            raise
        except (Exception, SystemExit) as error:
            raise _violated(script, f"{type(error).__name__}: {error}") from error
    if verdict is False:
        raise _violated(script, "it returned False")
    return True


def _violated(script: Script, why: str) -> VerificationError:
    return VerificationError(
        "CKM604",
        f"verify() of {script.path.name} does not hold",
        where=script.path.name,
        why=why,
        fix="The migration does not do what its author promised: correct the script.",
    )
