"""Reading a result as a stranger would, before it gets its name."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.errors import MigrationError, StorageError, VerificationError
from ckmigrate.execute.fill import read_expression
from ckmigrate.execute.source import SourceFile, open_source
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree_paths import child, path_after_drop
from ckmigrate.opened import dropped_state, edited
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.strict import compare, describe
from ckmigrate.target import strict_load
from ckmigrate.training.layouts import Layout, find_weights

if TYPE_CHECKING:
    import torch

    from ckmigrate.compile import State
    from ckmigrate.expr import Expr
    from ckmigrate.formats.base import Stored
    from ckmigrate.formats.tree import Tensor
    from ckmigrate.opened import Opened
    from ckmigrate.prepare import Prepared
    from ckmigrate.revisions.script import Script

__all__ = [
    "loaded_tensors",
    "run_script_verifies",
    "strictly_loads",
    "tensor_from_bytes",
    "verify_file",
]


def verify_file(path: Path, prepared: Prepared) -> None:
    """Read the file again: its tag, its schema, its training state, then a strict load into a
    fresh model.

    VerificationError CKM602 where the tag, CKM603 where the tensors, CKM606 where the training
    state is not what was planned, CKM605 where names would be taken for a wrapper's. StorageError
    where the weights would not be found again.
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
    _require_state(stored, prepared)
    if prepared.target is not None:
        strictly_loads(stored, layout.entries, prepared)
    if request.full_verify:
        run_script_verifies(stored, layout.entries, prepared)


def _require_state(stored: Stored, prepared: Prepared) -> None:
    """Compare the training state that followed the weights with what was planned."""
    source = prepared.opened.stored
    if source.is_flat and stored.format != source.format:
        return  # what is beside the weights of a folder stays there
    after = edited(
        prepared.opened, prepared.plan.trace.end.meta.tree, prepared.project, prepared.request
    )
    tree = after.stored.state_tree
    gone = dropped_state(after.layout, prepared.request)
    lines: list[str] = []
    for node in prepared.plan.carried.nodes:
        where = ".".join(map(str, node.path))
        try:
            found = child(stored.state_tree, path_after_drop(tree, node.path, gone))
        except (KeyError, IndexError):
            lines.append(f"{where}: it is not there")
        else:
            lines += [f"{where}: {line}" for line in node.verify(found)]
    if lines:
        raise _broken("CKM606", "the training state is not what was planned", tuple(lines[:40]))


def _found_again(stored: Stored, prepared: Prepared) -> Layout:
    """The weights where the next run will look for them."""
    request, project, source = prepared.request, prepared.project, prepared.opened
    nested = not stored.is_flat and not source.stored.is_flat
    keeps_place = nested and not request.weights_only
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


def strictly_loads(stored: Stored, entries: Mapping[str, Tensor], prepared: Prepared) -> None:
    """`load_state_dict(strict=True)` of a fresh model with the file's own tensors."""
    target, project = prepared.target, prepared.project
    assert target is not None
    exempt = _exempt(tuple(target.schema), project.exempt) | _exempt(tuple(entries), project.exempt)
    with loaded_tensors(stored, entries, values=False) as tensors:
        given = {name: tensor for name, tensor in tensors.items() if name not in exempt}
        strict_load(
            target.factory,
            target.model,
            given,
            python_path=project.python_path,
            complete_ties=stored.format == "sharded",
            exempt=exempt,
        )


def _exempt(names: tuple[str, ...], patterns: tuple[str, ...]) -> frozenset[str]:
    from ckmigrate.names import compile_pattern

    compiled = [compile_pattern(pattern) for pattern in patterns]
    return frozenset(n for n in names if any(p.match(n) is not None for p in compiled))


@contextmanager
def loaded_tensors(
    stored: Stored, entries: Mapping[str, Tensor], *, values: bool = True
) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of a checkpoint as torch sees them.

    Plain ones are views of the mapped file, others are copies; valid inside the block only.
    Without `values`, those that were saved in several parts are zeros, which take no memory.
    """
    with open_source(stored, entries) as source:
        maps = _Maps(source)
        yield {
            name: _tensor(name, tensor, source, maps)
            if values or not source.record(name).boxes
            else tensor_from_bytes(mmap.mmap(-1, max(1, tensor.spec.nbytes)), tensor.spec)
            for name, tensor in entries.items()
        }


class _Maps(dict[int, mmap.mmap]):
    """The files of a checkpoint, mapped when they are needed; a map outlives its descriptor."""

    def __init__(self, source: SourceFile) -> None:
        super().__init__()
        self._source = source

    def __missing__(self, number: int) -> mmap.mmap:
        fd = self._source.fds[number]
        self[number] = mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_COPY)
        return self[number]


def _tensor(name: str, tensor: Tensor, source: SourceFile, maps: _Maps) -> torch.Tensor:
    if source.is_plain(name) and tensor.spec.numel and not source.record(name).boxes:
        mapped = maps[source.record(name).file]
        return tensor_from_bytes(mapped, tensor.spec, offset=source.offset(name))
    return tensor_from_bytes(bytearray(source.read(name, 0, tensor.spec.numel)), tensor.spec)


def tensor_from_bytes(
    data: bytearray | mmap.mmap, spec: TensorSpec, *, offset: int = 0
) -> torch.Tensor:
    """A tensor on these bytes; flat bytes where torch has no such dtype."""
    import torch

    dtype = getattr(torch, spec.dtype.torch_name or "", None)
    shape = list(spec.shape)
    if spec.dtype is DType.F4 and shape:
        shape[-1] //= 2
    if spec.numel == 0:
        return torch.empty(shape, dtype=dtype or torch.uint8)
    flat = torch.frombuffer(data, dtype=torch.uint8, count=spec.nbytes, offset=offset)
    return flat if dtype is None else flat.view(dtype).reshape(shape)


def run_script_verifies(stored: Stored, entries: Mapping[str, Tensor], prepared: Prepared) -> None:
    """Run the `verify(old, new)` of every script in the chain.

    Each gets the values before and after its own change, whatever other scripts did: those of the
    newest state are read from the written file, those in between are worked out again, one tensor
    at a time. Going back, `new` still is the newer side.

    VerificationError CKM604 where one raises or returns False.
    """
    scripts = prepared.plan.trace.scripts
    with _values(prepared.opened) as values, loaded_tensors(stored, entries) as written:
        for number, traced in enumerate(scripts, start=1):
            check = traced.script.load().verify
            if check is None:
                continue
            begin = values(traced.before)
            end = written if number == len(scripts) else values(traced.after)
            old, new = (end, begin) if traced.direction == "down" else (begin, end)
            _require_truth(traced.script, check, old, new)


def _require_truth(script: Script, check: Callable[..., object], old: object, new: object) -> None:
    try:
        verdict = check(old, new)
    except (MigrationError, StorageError):
        raise
    except (Exception, SystemExit) as error:
        raise _violated(script, f"{type(error).__name__}: {error}") from error
    if verdict is False:
        raise _violated(script, "it returned False")


class _Values(Mapping[str, "torch.Tensor"]):
    """The tensors of a state between two scripts, each made when it is asked for."""

    def __init__(self, entries: Mapping[str, Expr], source: SourceFile) -> None:
        self._entries = entries
        self._source = source

    def __getitem__(self, name: str) -> torch.Tensor:
        expr = self._entries[name]
        return tensor_from_bytes(bytearray(read_expression(expr, self._source)), expr.spec)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@contextmanager
def _values(opened: Opened) -> Iterator[Callable[[State], _Values]]:
    with open_source(opened.stored, opened.layout.entries) as source:
        yield lambda state: _Values(state.entries, source)


def _violated(script: Script, why: str) -> VerificationError:
    return VerificationError(
        "CKM604",
        f"verify() of {script.path.name} does not hold",
        where=script.path.name,
        why=why,
        fix="The migration does not do what its author promised: correct the script.",
    )
