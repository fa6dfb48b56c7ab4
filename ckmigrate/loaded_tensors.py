"""The tensors of a checkpoint as torch sees them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckmigrate.execute.source import SourceFile, open_source
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.spec import DType, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["loaded_tensors", "tensor_from_bytes"]


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
