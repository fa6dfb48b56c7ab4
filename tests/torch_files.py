"""What the tests of the torch formats share: files written from images, and trees compared."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.formats import torch_legacy, torch_zip
from ckmigrate.formats.base import FileImage, Stored
from ckmigrate.formats.pickle_tree import dumps, loads
from ckmigrate.formats.torch_storages import StorageTable
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType

Read = Callable[[Path, int, os.stat_result, Sequence[str]], Stored]


def read_with(read: Read, path: Path, carry: Sequence[str] = ()) -> Stored:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read(path, fd, os.fstat(fd), carry)
    finally:
        os.close(fd)


def read_zip(path: Path, carry: Sequence[str] = ()) -> Stored:
    return read_with(torch_zip.read, path, carry)


def save(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def node(stored: Stored, key: str) -> Tensor:
    """The Tensor under a key of the top-level dict."""
    assert isinstance(stored.tree, dict)
    found = stored.tree[key]
    assert isinstance(found, Tensor)
    return found


def refused_zip(path: Path) -> str:
    """The code of the error that reading gives."""
    with pytest.raises(StorageError) as caught:
        read_zip(path)
    assert str(path) in str(caught.value.where)
    return caught.value.code


def read_legacy(path: Path, carry: Sequence[str] = ()) -> Stored:
    return read_with(torch_legacy.read, path, carry)


def record_bytes(stored: Stored) -> dict[str, bytes]:
    data = stored.path.read_bytes()
    return {key: data[r.offset : r.offset + r.nbytes] for key, r in stored.records.items()}


def assemble(image: FileImage, content: Mapping[str, bytes]) -> bytes:
    """The file of an image; asserts that every byte is written exactly once."""
    file = bytearray(image.size)
    written = bytearray(image.size)
    crcs = {key: zlib.crc32(content[key]) for key in image.slots}
    assert image.finish is not None
    slots = [(slot.offset, content[key]) for key, slot in image.slots.items()]
    for key, slot in image.slots.items():
        assert slot.nbytes == len(content[key])
    for offset, part in (*image.chunks, *slots, *image.finish(crcs)):
        assert not any(written[offset : offset + len(part)])
        written[offset : offset + len(part)] = b"\x01" * len(part)
        file[offset : offset + len(part)] = part
    assert all(written)
    return bytes(file)


def rewrite(
    stored: Stored,
    path: Path,
    *,
    tag: str | None = None,
    tag_as: Literal["key", "record"] = "key",
) -> Path:
    """Write what was read to `path`, storages as they were."""
    image = torch_zip.image(stored.tree, tag=tag, tag_as=tag_as)
    path.write_bytes(assemble(image, record_bytes(stored)))
    return path


def tensor_of(stored: Stored, node: object) -> torch.Tensor:
    """The real tensor that a Tensor leaf means."""
    assert isinstance(node, Tensor)
    raw = bytearray(record_bytes(stored)[node.storage.key])
    dtype = getattr(torch, str(node.spec.dtype))
    shape, offset, strides = node.spec.shape, node.offset, node.strides
    if node.spec.dtype is DType.F4:
        shape = (*shape[:-1], shape[-1] // 2)
        return torch.frombuffer(raw, dtype=torch.uint8)[offset // 2 :].view(dtype).view(shape)
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    view = torch.as_strided(flat, shape, strides, offset) if raw else flat.view(shape)
    view = view.conj().resolve_conj() if node.conj else view
    return view.neg() if node.neg else view


def differences(one: object, two: object) -> list[str]:
    """Where two trees differ, with what is shared and what holds itself; keys of storages are
    names that only have to be used in the same way."""
    return _Comparison().run(one, two)


class _Comparison:
    def __init__(self) -> None:
        self.twins: dict[object, object] = {}
        self.found: list[str] = []

    def run(self, one: object, two: object) -> list[str]:
        self.compare(one, two, "tree")
        return self.found

    def twin(self, one: object, two: object, where: str) -> bool:
        """Whether the pair was seen; the first pair decides who is whose twin."""
        seen = id(one) in self.twins or id(two) in self.twins
        if seen and not (self.twins.get(id(one)) == id(two) and self.twins.get(id(two)) == id(one)):
            self.found.append(f"{where}: shared differently")
        self.twins[id(one)], self.twins[id(two)] = id(two), id(one)
        return seen

    def compare(self, one: object, two: object, where: str) -> None:
        if type(one) is not type(two):
            self.found.append(f"{where}: {type(one).__name__} and {type(two).__name__}")
        elif isinstance(one, str | bytes | int | float | complex | Global | type(None)):
            if repr(one) != repr(two):
                self.found.append(f"{where}: {one!r} and {two!r}")
        elif (isinstance(one, tuple) and not one) or not self.twin(one, two, where):
            self.inside(one, two, where)

    def inside(self, one: object, two: object, where: str) -> None:
        match one, two:
            case dict(), dict():
                self.sequence(list(one), list(two), f"{where} keys")
                self.sequence(list(one.values()), list(two.values()), where)
            case (list() | tuple(), list() | tuple()):
                self.sequence(one, two, where)
            case (set() | frozenset(), set() | frozenset()):
                self.sequence(sorted(one, key=repr), sorted(two, key=repr), where)
            case bytearray(), bytearray():
                self.compare(bytes(one), bytes(two), where)
            case Object(), Object():
                for name in Object.__slots__:
                    self.compare(getattr(one, name), getattr(two, name), f"{where}.{name}")
            case Tensor(), Tensor():
                self.compare(one.storage, two.storage, where)
                self.compare(_numbers(one), _numbers(two), where)
                self.compare(one.attributes, two.attributes, where)
            case Storage(), Storage():
                pair = self.twins.setdefault(one.key + "<", two.key)
                back = self.twins.setdefault(two.key + ">", one.key)
                if (pair, back) != (two.key, one.key) or one.nbytes != two.nbytes:
                    self.found.append(f"{where}: storages {one} and {two}")
            case _:
                self.found.append(f"{where}: unknown {one!r}")

    def sequence(self, one: Sequence[object], two: Sequence[object], where: str) -> None:
        if len(one) != len(two):
            self.found.append(f"{where}: {len(one)} and {len(two)} parts")
        for index, (a, b) in enumerate(zip(one, two, strict=False)):
            self.compare(a, b, f"{where}[{index}]")


def _numbers(tensor: Tensor) -> str:
    bits = (tensor.requires_grad, tensor.parameter, tensor.conj, tensor.neg)
    return repr((tensor.spec, tensor.offset, tensor.strides, bits))


# --- pickles ----------------------------------------------------------------------------------


def no_storage(claim: object) -> object:
    raise AssertionError(f"no storage was expected: {claim}")


def read_pickle(data: bytes, *carry: str) -> object:
    return loads(data, persistent=no_storage, carry=carry)


def write_pickle(tree: object) -> bytes:
    return dumps(tree, storage_key=lambda storage: storage.key)


def refused_pickle(data: bytes, *carry: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        loads(data, persistent=StorageTable().load_legacy, carry=carry)
    assert ", byte " in str(caught.value.where)
    return caught.value


def torch_pickle(value: object, protocol: int = 2) -> bytes:
    """The pickle that torch.save puts into its archive."""
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol)
    return zipfile.ZipFile(file).read("archive/data.pkl")
