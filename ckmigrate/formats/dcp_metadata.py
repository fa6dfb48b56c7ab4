"""The `.metadata` of a torch distributed checkpoint (DCP), as values and back.

It is an ordinary pickle of `torch.distributed.checkpoint.metadata.Metadata`, of which

    state_dict_metadata   name → dtype, shape and chunks of a tensor, or "bytes"
    planner_data          name → path in the nested dict that was saved; None where it was flat
    storage_data          (name, offsets of a chunk) → file, offset and length

are read into the classes below; everything else in it is kept as it is. It is a stranger's: no
class in it is imported, and a file in it is the name of a file beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.dcp_tag import digest_of
from ckmigrate.formats.folder_names import METADATA
from ckmigrate.formats.pickle_tree import dumps, loads
from ckmigrate.formats.tree import Global, Object, Storage
from ckmigrate.formats.tree_paths import Path
from ckmigrate.spec import DType, TensorSpec

__all__ = [
    "BytesItem",
    "Chunk",
    "DcpMetadata",
    "Item",
    "Place",
    "TensorItem",
    "file_names",
    "new_metadata",
    "parse_metadata",
    "plain_properties",
    "render_metadata",
    "torch_counts",
]

_CLASSES: Final = "torch.distributed.checkpoint.metadata"
_FILES: Final = "torch.distributed.checkpoint.filesystem"
# Until torch 2.2 the properties of tensors were those of sharded tensors.
_OLD_CLASSES: Final = "torch.distributed._shard.sharded_tensor.metadata"
_INFO: Final = Global(_FILES, "_StorageInfo")
_ALLOWED: Final = (
    *(
        f"{_CLASSES}.{name}"
        for name in (
            "Metadata",
            "TensorStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "BytesStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    f"{_OLD_CLASSES}.TensorProperties",
    f"{_OLD_CLASSES}.MEM_FORMAT_ENCODING",
    str(_INFO),
)
_DTYPES: Final[Mapping[object, DType]] = {
    Global("torch", dtype.torch_name): dtype for dtype in DType if dtype.torch_name
}
_SIZE: Final = Global("torch", "Size")
_VERSION: Final = "1.0.0"
_LARGEST: Final = 2**63 - 1
_MOST_DIMENSIONS: Final = 64
_LONGEST_PATH: Final = 64
_LONGEST_NAME: Final = 255
_AGAIN: Final = "Copy or save the checkpoint again; a damaged .metadata cannot be trusted."


@dataclass(frozen=True, slots=True)
class Place:
    """A range of bytes of one file of the folder."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor and where a file of torch.save with its values lies. Offsets and sizes
    count elements as a TensorSpec does."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class TensorItem:
    """A tensor; `properties` is torch's object for its dtype and flags, inert."""

    spec: TensorSpec
    properties: object
    chunks: tuple[Chunk, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(chunk.place for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class BytesItem:
    """Anything else: a file of torch.save with the object."""

    place: Place

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.place,)


Item = TensorItem | BytesItem


@dataclass(frozen=True, slots=True)
class DcpMetadata:
    """What a `.metadata` says.

    items   by name
    paths   path of every item in the nested dict
    nested  whether the file has these paths; where not, each is the name alone
    root    torch's object, inert, for what is not read into the fields above
    digest  of the file, as the tag has it; "" of one that was not read
    """

    items: Mapping[str, Item]
    paths: Mapping[str, Path]
    nested: bool
    root: Object
    digest: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the data files, each once, in the order in which the items name them."""
        places = (place for item in self.items.values() for place in item.places)
        return tuple(dict.fromkeys(place.file for place in places))


class _OddError(Exception):
    """What is wrong with a `.metadata`; the reader adds the place."""


def parse_metadata(raw: bytes, *, where: str) -> DcpMetadata:
    """Read a `.metadata`.

    StorageError: CKM710 to CKM713 by the pickle; CKM780 where it does not say what a checkpoint
    consists of, CKM781 where it names what is no file of its folder, CKM785 where the data was
    transformed (compressed, encrypted) while it was written.
    """
    root = loads(raw, persistent=_no_storages, carry=_ALLOWED, source=where)
    try:
        return replace(_metadata(root, where), digest=digest_of(raw))
    except _OddError as odd:
        raise StorageError(
            "CKM780",
            ".metadata is not that of a distributed checkpoint",
            where=where,
            why=str(odd),
            fix=_AGAIN,
        ) from None


def file_names(raw: bytes) -> tuple[str, ...]:
    """The data files that a `.metadata` names; StorageError as `parse_metadata`."""
    return parse_metadata(raw, where=METADATA).files


def _no_storages(claim: object) -> object:
    from ckmigrate.formats.pickle_globals import BadPickle

    raise BadPickle("a .metadata has no storages, and names one")


# --- reading ----------------------------------------------------------------------------------


def _metadata(root: object, where: str) -> DcpMetadata:
    fields = _fields(root, "Metadata")
    assert isinstance(root, Object)
    described = fields.get("state_dict_metadata")
    if not isinstance(described, dict):
        raise _OddError("its state_dict_metadata is no dict")
    places = dict(_places(fields.get("storage_data"), where))
    items = {_name(key): _item(_name(key), node, places) for key, node in described.items()}
    planned = fields.get("planner_data")
    paths = _paths(planned, items)
    return DcpMetadata(items, paths, bool(planned), root)


def _fields(node: object, *names: str, module: str = _CLASSES) -> Mapping[object, object]:
    """The attributes of an inert instance of one of these classes."""
    if isinstance(node, Object) and node.new and not (node.args or node.items or node.entries):
        factory = node.factory
        known = factory.module == module and factory.name in names
        if known and isinstance(node.state, dict) and not node.kwargs:
            return node.state
        if known and not node.has_state:
            return {}
    raise _OddError(f"there is no {' or '.join(names)} where one should be")


def _name(key: object) -> str:
    if not isinstance(key, str) or "\0" in key:
        raise _OddError(f"{key!r:.80} is no name of an entry")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise _OddError(f"{key!r:.80} is no name of an entry") from None
    return key


Places = Mapping[tuple[str, tuple[int, ...] | None], Place]


def _places(data: object, where: str) -> Iterator[tuple[tuple[str, tuple[int, ...] | None], Place]]:
    if not isinstance(data, dict):
        raise _OddError("its storage_data is no dict")
    seen = set()
    for index, info in data.items():
        fields = _fields(index, "MetadataIndex")
        offset = fields.get("offset")
        key = _name(fields.get("fqn")), None if offset is None else _counts(offset)
        if key in seen:
            raise _OddError(f"it says twice where {key[0]!r} is")
        seen.add(key)
        yield key, _place(key[0], info, where)


def _place(name: str, info: object, where: str) -> Place:
    fields = _fields(info, "_StorageInfo", module=_FILES)
    if fields.get("transform_descriptors"):
        raise _transformed(name, fields["transform_descriptors"], where)
    file, offset, nbytes = (fields.get(key) for key in ("relative_path", "offset", "length"))
    if not isinstance(file, str):
        raise _OddError(f"the file of {name!r} is no text")
    _check_file(file, where)
    if not (_is_count(offset) and _is_count(nbytes)):
        raise _OddError(f"the place of {name!r} in its file is no range of bytes")
    assert isinstance(offset, int)
    assert isinstance(nbytes, int)
    return Place(file, offset, nbytes)


def _check_file(file: str, where: str) -> None:
    """A file name and nothing else: it cannot lead out of the folder."""
    leads_away = file in ("", ".", "..", METADATA) or "/" in file or "\\" in file
    if leads_away or not file.isprintable() or len(file.encode()) > _LONGEST_NAME:
        raise StorageError(
            "CKM781",
            f".metadata names {file!r:.120}, which is no data file of its folder",
            where=where,
            why="The files of a checkpoint lie beside its .metadata; a name with separators, an "
            "empty one or '..' could lead to any file of this machine.",
            fix="Do not use this checkpoint unless you know who wrote it, and why.",
        )


def _transformed(name: str, descriptors: object, where: str) -> StorageError:
    listed = descriptors if isinstance(descriptors, list | tuple) else [descriptors]
    return StorageError(
        "CKM785",
        f"the data of '{name}' was transformed while it was written",
        where=where,
        why=f"It names the extension {', '.join(f'{text!r:.60}' for text in listed)}; only data "
        "that is stored as it is can be read.",
        fix="Save the checkpoint again without extensions of the storage writer.",
    )


def _item(name: str, node: object, places: Places) -> Item:
    if isinstance(node, Object) and node.factory.name == "BytesStorageMetadata":
        _fields(node, "BytesStorageMetadata")
        return BytesItem(_found(places, name, None))
    fields = _fields(node, "TensorStorageMetadata")
    properties = fields.get("properties")
    dtype = _dtype(properties, name)
    shape = _elements(dtype, _counts(fields.get("size")), name)
    if math.prod(shape) * dtype.bits // 8 > _LARGEST:
        raise _OddError(f"{name!r} is larger than any file")
    chunks = fields.get("chunks")
    if not isinstance(chunks, list):
        raise _OddError(f"the chunks of {name!r} are no list")
    spec = TensorSpec(dtype, shape)
    return TensorItem(spec, properties, tuple(_chunk(name, dtype, c, places) for c in chunks))


def _dtype(properties: object, name: str) -> DType:
    if isinstance(properties, Object) and properties.factory.name == "TensorProperties":
        state = properties.state
        if properties.new and not properties.args and isinstance(state, tuple) and state:
            kind = state[0]
            if isinstance(kind, Global) and kind in _DTYPES:
                return _DTYPES[kind]
            raise _OddError(f"the dtype of {name!r} is {str(kind)!r:.60}, which is not known")
    raise _OddError(f"the properties of {name!r} say no dtype")


def _chunk(name: str, dtype: DType, node: object, places: Places) -> Chunk:
    fields = _fields(node, "ChunkStorageMetadata")
    offsets, sizes = (_counts(fields.get(key)) for key in ("offsets", "sizes"))
    place = _found(places, name, offsets)
    return Chunk(_elements(dtype, offsets, name), _elements(dtype, sizes, name), place)


def _found(places: Places, name: str, offsets: tuple[int, ...] | None) -> Place:
    if (name, offsets) not in places:
        at = "" if offsets is None else f" at {list(offsets)}"
        raise _OddError(f"it does not say where the data of {name!r}{at} is")
    return places[name, offsets]


def _counts(node: object) -> tuple[int, ...]:
    """The numbers of a torch.Size, which is made of one tuple."""
    if isinstance(node, Object) and node.factory == _SIZE and not (node.items or node.entries):
        args = node.args
        numbers = args[0] if len(args) == 1 else None
        few = isinstance(numbers, list | tuple) and len(numbers) <= _MOST_DIMENSIONS
        counts = tuple(numbers) if few and isinstance(numbers, list | tuple) else (None,)
        if all(_is_count(number) for number in counts):
            return tuple(int(number) for number in counts)
    raise _OddError("a size or an offset in it is no torch.Size of numbers")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _elements(dtype: DType, counts: tuple[int, ...], name: str) -> tuple[int, ...]:
    """torch counts the bytes of F4, which hold two elements each."""
    if dtype is not DType.F4:
        return counts
    if not counts:
        raise _OddError(f"{name!r} is a single number of half a byte")
    return (*counts[:-1], counts[-1] * 2)


def torch_counts(dtype: DType, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes or offsets of elements as torch counts them."""
    return counts if dtype is not DType.F4 else (*counts[:-1], counts[-1] // 2)


def _paths(planned: object, items: Mapping[str, Item]) -> dict[str, Path]:
    if planned is None or planned == {}:
        return {name: (name,) for name in items}
    if not isinstance(planned, dict):
        raise _OddError("its planner_data is no dict of paths")
    paths = {name: _path(planned.get(name), name) for name in items}
    if len(set(paths.values())) < len(paths):
        raise _OddError("two entries in it have one path")
    return paths


def _path(node: object, name: str) -> Path:
    steps = node if isinstance(node, tuple) and 0 < len(node) <= _LONGEST_PATH else ()
    if steps and isinstance(steps[0], str) and all(type(step) in (str, int) for step in steps):
        return tuple(_name(step) if isinstance(step, str) else step for step in steps)
    raise _OddError(f"the path of {name!r} is no path of names and numbers")


# --- writing ----------------------------------------------------------------------------------


def new_metadata() -> DcpMetadata:
    """A `.metadata` without entries."""
    fields: dict[object, object] = {
        "state_dict_metadata": {},
        "planner_data": {},
        "storage_data": {},
        "storage_meta": None,
        "version": _VERSION,
    }
    return DcpMetadata({}, {}, True, _made("Metadata", fields))


def plain_properties(dtype: DType) -> Object:
    """What torch says of a tensor of this dtype that is dense and on the CPU."""
    layout = Object(Global("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = Object(Global(_CLASSES, "_MEM_FORMAT_ENCODING"), (0,))
    state = (Global("torch", dtype.torch_name or ""), layout, False, contiguous, False)
    return _made("TensorProperties", state)


def render_metadata(metadata: DcpMetadata) -> bytes:
    """The file that `torch.distributed.checkpoint` reads as this; equal metadata gives equal bytes.

    StorageError CKM718 for what cannot be written.
    """
    items = metadata.items
    fields = metadata.root.state if isinstance(metadata.root.state, dict) else {}
    changed = {
        **fields,
        "state_dict_metadata": {name: _described(item) for name, item in items.items()},
        "planner_data": dict(metadata.paths) if metadata.nested else fields.get("planner_data"),
        "storage_data": dict(pair for name, item in items.items() for pair in _stored(name, item)),
    }
    return dumps(replace(metadata.root, state=changed), storage_key=_unwritable)


def _unwritable(storage: Storage) -> str:
    raise AssertionError(storage.key)


def _described(item: Item) -> Object:
    if isinstance(item, BytesItem):
        return Object(Global(_CLASSES, "BytesStorageMetadata"), new=True)
    dtype = item.spec.dtype
    chunks = [
        _made("ChunkStorageMetadata", {"offsets": _size(dtype, c.offsets), "sizes": size})
        for c in item.chunks
        for size in (_size(dtype, c.sizes),)
    ]
    size = _size(dtype, item.spec.shape)
    fields = {"properties": item.properties, "size": size, "chunks": chunks}
    return _made("TensorStorageMetadata", fields)


def _stored(name: str, item: Item) -> Iterator[tuple[object, object]]:
    if isinstance(item, BytesItem):
        yield _index(name, None, None), _info(item.place)
        return
    for number, chunk in enumerate(item.chunks):
        offset = _size(item.spec.dtype, chunk.offsets)
        yield _index(name, number, offset), _info(chunk.place)


def _index(name: str, number: int | None, offset: Object | None) -> Object:
    state: dict[object, object] = {"fqn": name, "index": number}
    if offset is not None:
        state["offset"] = offset
    return _made("MetadataIndex", state)


def _info(place: Place) -> Object:
    state = {"relative_path": place.file, "offset": place.offset, "length": place.nbytes}
    return Object(_INFO, new=True, has_state=True, state=state)


def _made(name: str, state: object) -> Object:
    return Object(Global(_CLASSES, name), new=True, has_state=True, state=state)


def _size(dtype: DType, counts: tuple[int, ...]) -> Object:
    return Object(_SIZE, (torch_counts(dtype, counts),))
