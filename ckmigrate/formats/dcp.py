"""Torch distributed checkpoints (DCP): a folder as `torch.distributed.checkpoint.save` writes it.

    .metadata           which tensors there are, of which chunks they consist, and where those are
    __0_0.distcp, …     what each rank wrote: files of torch.save, one after the other
    ckmigrate.json      our tag; or a key of the state dict, as of torch files

A tensor that several ranks held parts of is several chunks. Where these are rows, their bytes one
after the other are the tensor's, and are copied so; other tilings are put together. Chunks must
tile their tensor exactly. What is no tensor is read into the inert tree like any torch file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Box, FileIdentity, Folder, Record, Stored, StoredFile
from ckmigrate.formats.dcp_metadata import (
    DcpMetadata,
    Item,
    Place,
    TensorItem,
    parse_metadata,
)
from ckmigrate.formats.dcp_tag import read_tag
from ckmigrate.formats.dcp_tree import nested
from ckmigrate.formats.folder_listing import Listing, list_folder
from ckmigrate.formats.folder_names import METADATA, TAG_FILE
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.read_at import Region, read_at
from ckmigrate.formats.tiling import is_run, tiling_fault
from ckmigrate.formats.torch_tag import take_tag
from ckmigrate.formats.torch_zip import read_part
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.names.order import natural_key
from ckmigrate.spec import DType, TensorSpec

__all__ = ["read_dcp"]

_OF_A_RANK: Final = re.compile(r"__[0-9]+\.metadata")
_MOST_OPEN: Final = 64
_AGAIN: Final = "Copy or save the checkpoint again; files of two versions may be mixed."


def read_dcp(
    path: Path,
    open_file: Callable[[Path], int],
    read_text: Callable[[Path], bytes],
    carry: Sequence[str],
) -> Stored:
    """Read the folder `path`, or the folder of the .metadata `path`, but for its tensor bytes.

    open_file  a descriptor of a regular file; what it raises passes
    read_text  all bytes of a small file
    carry      classes that what is no tensor may name

    Raises StorageError: CKM710 to CKM715 by the pickles and archives in it; CKM765 more than one
    checkpoint; CKM780, CKM781, CKM785 `.metadata`; CKM782 files are missing; CKM783 chunks do not
    tile their tensor; CKM784 a chunk is not what `.metadata` says; CKM786 and
    CKM716 the tag.
    """
    root = path.parent if path.name == METADATA else path
    raw = read_text(root / METADATA)
    metadata = parse_metadata(raw, where=str(root / METADATA))
    listing = list_folder(root)
    _require_alone(root, listing, named=path is not root)
    shards = tuple(sorted(metadata.files, key=natural_key))
    _require_present(root, shards, listing)
    _require_apart(metadata, where=str(root / METADATA))
    with _reader(root, shards, listing, open_file, carry) as reader:
        leaves = {metadata.paths[n]: reader.read(n, item) for n, item in metadata.items.items()}
    has_tag = TAG_FILE in listing.files
    written = _tag(root, raw, read_text) if has_tag else None
    tree, tag = take_tag(nested(leaves, where=str(root / METADATA)), written, where=str(root))
    details = {"container": "folder of chunks", "data files": str(len(shards))}
    if has_tag and written is None:
        details["tag"] = "of an older .metadata, not counted"
    rest = tuple(name for name in listing.files if name not in (*shards, METADATA))
    others = tuple(name for name in rest if name != TAG_FILE)
    return Stored(
        path=root,
        format="dcp",
        identity=listing.files[METADATA],
        tree=tree,
        records=reader.records,
        tag=tag,
        details=details,
        folder=Folder("torch", shards, METADATA, (), None, others, listing.empty, listing.odd),
        parts=tuple(
            StoredFile(root / name, listing.files[name]) for name in (*shards, METADATA, *rest)
        ),
        dcp=metadata,
    )


def _tag(root: Path, raw: bytes, read_text: Callable[[Path], bytes]) -> str | None:
    return read_tag(read_text(root / TAG_FILE), raw, where=str(root / TAG_FILE))


def _require_alone(root: Path, listing: Listing, *, named: bool) -> None:
    """CKM765 where an index of shards, or the .metadata of a single rank, is there too."""
    others = [
        name
        for name in listing.files
        if _OF_A_RANK.fullmatch(name) or (name.endswith(".index.json") and not named)
    ]
    if others:
        raise StorageError(
            "CKM765",
            f"{root.name or root} holds several checkpoints",
            where=str(root),
            details=(METADATA, *others[:10]),
            why="Which of them is meant cannot be told, and changing one would leave the others "
            "wrong.",
            fix=f"Move the others out of the folder, or name the one: {root / METADATA}",
        )


def _require_present(root: Path, shards: Sequence[str], listing: Listing) -> None:
    missing = [name for name in shards if name not in listing.files]
    if missing:
        more = (f"… {len(missing) - 20} more",) if len(missing) > 20 else ()
        raise StorageError(
            "CKM782",
            f"{len(missing)} of {len(shards)} data files are missing",
            where=str(root / METADATA),
            details=(*missing[:20], *more),
            why=".metadata names them, and they are no files of its folder.",
            fix="Copy the rest of the checkpoint: every rank wrote a file of its own.",
        )


def _require_apart(metadata: DcpMetadata, *, where: str) -> None:
    """CKM784 where two places overlap; only whole tensors may be at the places of another."""
    owners: dict[Place, str] = {}
    for name, item in metadata.items.items():
        distinct = set(item.places)
        for place in distinct:
            first = metadata.items[owners.setdefault(place, name)]
            if first is not item and not _are_tied(first, item):
                raise _over_each_other(owners[place], name, where)
        if len(distinct) < len(item.places):
            raise _over_each_other(name, name, where)
    ordered = sorted(owners, key=lambda place: (place.file, place.offset, place.nbytes))
    for one, other in pairwise(ordered):
        if one.file == other.file and one.offset + one.nbytes > other.offset:
            raise _over_each_other(owners[one], owners[other], where)


def _are_tied(one: Item, other: Item) -> bool:
    if isinstance(one, TensorItem) and isinstance(other, TensorItem):
        return (one.spec, one.chunks) == (other.spec, other.chunks)
    return False


def _over_each_other(one: str, other: str, where: str) -> StorageError:
    why = "Every entry has a place of its own. Chunks that were serialised as safetensors look so "
    why += "too, and are not read."
    return _misplaced(f"the data of '{one}' and of '{other}' lie over each other", where, why)


# --- the data files ---------------------------------------------------------------------------


@contextmanager
def _reader(
    root: Path,
    shards: Sequence[str],
    listing: Listing,
    open_file: Callable[[Path], int],
    carry: Sequence[str],
) -> Iterator[_Reader]:
    numbers = {name: number for number, name in enumerate(shards)}
    reader = _Reader(root, numbers, listing.files, open_file, tuple(carry))
    try:
        yield reader
    finally:
        reader.close()


@dataclass(slots=True)
class _Reader:
    """Reads what lies at a place of a data file, each place once.

    records  of every storage that was read
    """

    root: Path
    numbers: Mapping[str, int]
    files: Mapping[str, FileIdentity]
    open_file: Callable[[Path], int]
    carry: tuple[str, ...]
    records: dict[str, Record] = field(default_factory=dict)
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
            self._nodes[place] = self._read(name, place)
        return self._nodes[place]

    def _read(self, name: str, place: Place) -> object:
        size = self.files[place.file].size
        where = f"{self.root / place.file}, {name!r:.120}"
        if place.offset + place.nbytes > size:
            why = f"it would end at byte {place.offset + place.nbytes}, and the file has {size}"
            raise _misplaced(f"the data of '{name}' lies outside of its file", where, why)
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
        raise _misplaced(f"a chunk of '{name}' is another one", str(self.root / place.file), why)

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


def _misplaced(what: str, where: str, why: str) -> StorageError:
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
