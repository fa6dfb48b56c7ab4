"""The chunks of a torch distributed checkpoint: a file of torch.save each, side by side in data
files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Box, FileIdentity, Record, Stored
from ckmigrate.formats.dcp_metadata import Item, Place, TensorItem
from ckmigrate.formats.folder_names import METADATA
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.read_at import Region, read_at
from ckmigrate.formats.tiling import is_run, tiling_fault
from ckmigrate.formats.torch_zip import read_part
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import DType, TensorSpec

__all__ = ["ChunkReader", "misplaced", "reading_chunks"]

_MOST_OPEN: Final = 64
_AGAIN: Final = "Copy or save the checkpoint again; files of two versions may be mixed."


@contextmanager
def reading_chunks(
    root: Path,
    shards: Sequence[str],
    files: Mapping[str, FileIdentity],
    open_file: Callable[[Path], int],
    carry: Sequence[str],
    before: Stored | None = None,
) -> Iterator[ChunkReader]:
    """A reader of the data files `shards`, for as long as the block lasts.

    files      of the folder, as they are now
    open_file  a descriptor of a regular file; what it raises passes
    before     a checkpoint that was read before: what lies in files that are still the same is
               taken from there
    """
    numbers = {name: number for number, name in enumerate(shards)}
    reader = ChunkReader(root, numbers, files, open_file, tuple(carry), before)
    try:
        yield reader
    finally:
        reader.close()


@dataclass(slots=True)
class ChunkReader:
    """Reads what lies at a place of a data file, each place once.

    records  of every storage that was read
    tensors  what was read at each place, where that is a tensor
    """

    root: Path
    numbers: Mapping[str, int]
    files: Mapping[str, FileIdentity]
    open_file: Callable[[Path], int]
    carry: tuple[str, ...]
    before: Stored | None = None
    records: dict[str, Record] = field(default_factory=dict)
    tensors: dict[Place, Tensor] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)
    _nodes: dict[Place, object] = field(default_factory=dict)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, name: str, item: Item) -> object:
        """The node of an item: a Tensor, or what was saved as bytes."""
        if isinstance(item, TensorItem):
            return self._tensor(name, item)
        return self._node(name, item.place)

    def _node(self, name: str, place: Place) -> object:
        if place not in self._nodes:
            known = self._known(place)
            node = self._read(name, place) if known is None else known
            self._nodes[place] = node
            if isinstance(node, Tensor):
                self.tensors[place] = node
        return self._nodes[place]

    def _known(self, place: Place) -> Tensor | None:
        """What was read there before, where the file is the same since."""
        before = self.before
        tensor = None if before is None else before.chunks.get(place)
        if before is None or tensor is None or tensor.attributes is not None:
            return None
        record = before.records[tensor.storage.key]
        if before.files[record.file].identity != self.files[place.file]:
            return None
        number = self.numbers[place.file]
        moved = record if record.file == number else replace(record, file=number)
        self.records[tensor.storage.key] = moved
        return tensor

    def _read(self, name: str, place: Place) -> object:
        size = self.files[place.file].size
        where = f"{self.root / place.file}, {name!r:.120}"
        if place.offset + place.nbytes > size:
            why = f"it would end at byte {place.offset + place.nbytes}, and the file has {size}"
            raise misplaced(f"the data of '{name}' lies outside of its file", where, why)
        fd = self._fd(place.file)
        head = read_at(fd, place.offset, min(4, place.nbytes), where=where)
        if head != b"PK\x03\x04":
            raise _no_archive(name, head, where)
        prefix = f"{place.file}@{place.offset}/"
        region = Region(fd, place.offset)
        node, records = read_part(region, place.nbytes, prefix, where=where, carry=self.carry)
        number = self.numbers[place.file]
        self.records |= {key: replace(r, file=number) for key, r in records.items()}
        return node

    def _fd(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) == _MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[name] = self.open_file(self.root / name)
        return self._open[name]

    # --- tensors of chunks --------------------------------------------------------------------

    def _tensor(self, name: str, item: TensorItem) -> Tensor:
        boxes = [(chunk.offsets, chunk.sizes) for chunk in item.chunks]
        fault = tiling_fault(item.spec.shape, boxes)
        if fault is not None:
            raise StorageError(
                "CKM783",
                f"the chunks of '{name}' are not the tensor",
                where=str(self.root / METADATA),
                why=f"{fault}. Chunks cover their tensor exactly.",
                fix=_AGAIN,
            )
        found = [
            Box(chunk.offsets, self._chunk(name, item.spec.dtype, chunk.sizes, chunk.place))
            for chunk in sorted(item.chunks, key=lambda chunk: chunk.offsets)
        ]
        full = tuple(box for box in found if box.tensor.spec.numel) or tuple(found[:1])
        if len(full) == 1 and full[0].tensor.spec == item.spec:
            return full[0].tensor
        return self._tiled(name, item.spec, full)

    def _chunk(self, name: str, dtype: DType, sizes: tuple[int, ...], place: Place) -> Tensor:
        node = self._node(name, place)
        spec = TensorSpec(dtype, sizes)
        if isinstance(node, Tensor) and node.spec == spec:
            # What torch copies the values from; the rest of it says nothing.
            return replace(node, requires_grad=False, parameter=False, attributes=None)
        found = str(node.spec) if isinstance(node, Tensor) else f"of type {type(node).__name__}"
        why = f".metadata says {spec}; what is there is {found}"
        raise misplaced(f"a chunk of '{name}' is another one", str(self.root / place.file), why)

    def _tiled(self, name: str, spec: TensorSpec, boxes: tuple[Box, ...]) -> Tensor:
        # No file name is empty, so no other key begins like this.
        key = f"/{name}"
        scattered = not all(self._is_run(spec.shape, box.tensor) for box in boxes)
        if scattered and spec.dtype.bits < 8:
            what = f"'{name}' is {spec.dtype}, and its chunks are no rows"
            why = "Elements that are narrower than a byte can be moved as whole bytes only."
            fix = "Save it again from one rank."
            raise StorageError("CKM785", what, where=str(self.root), why=why, fix=fix)
        first = self.records[boxes[0].tensor.storage.key].file if boxes else 0
        self.records[key] = Record(
            0, spec.nbytes, file=first, boxes=boxes, shape=spec.shape, scattered=scattered
        )
        storage = Storage(key, spec.dtype, spec.nbytes)
        return Tensor(storage, spec, 0, contiguous_strides(spec.shape))

    def _is_run(self, shape: tuple[int, ...], tensor: Tensor) -> bool:
        """Whether the bytes of a chunk are neighbours in the tensor, in the order that counts."""
        record, spec = self.records[tensor.storage.key], tensor.spec
        in_order = tensor.strides == contiguous_strides(spec.shape) and not tensor.offset
        lazy = tensor.conj or tensor.neg or (record.big_endian and spec.dtype.bits > 8)
        whole = record.nbytes == spec.nbytes
        return in_order and whole and not lazy and is_run(shape, spec.shape)


def misplaced(what: str, where: str, why: str) -> StorageError:
    """CKM784: a chunk is not what `.metadata` says."""
    return StorageError("CKM784", what, where=where, why=why, fix=_AGAIN)


def _no_archive(name: str, head: bytes, where: str) -> StorageError:
    return StorageError(
        "CKM784",
        f"where .metadata says that '{name}' is, there is no file of torch.save",
        where=where,
        why=f"It begins with the bytes {head.hex(' ')}. Chunks of another serialisation "
        "(safetensors, a compressed stream) are not read.",
        fix="If the checkpoint was saved so on purpose, save it with the usual FileSystemWriter. "
        + _AGAIN,
    )
