"""Thousands of damaged .metadata files: a clear error, or tensors that were really saved."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor as Node
from ckmigrate.formats.tree_paths import steps
from ckmigrate.loaded_tensors import loaded_tensors
from tests.dcp_folders import grid, handmade, metadata_of, rows, whole
from tests.shards import digest

Mutate = Callable[[bytes, random.Random], bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    names = {
        "model.a": rows(torch.randn(7, 4), 4, 3),
        "model.b": grid(torch.randn(4, 6), (2, 2), (3, 3)),
        "model.c": whole(torch.randn(3)),
        "model.d": whole(torch.tensor(2.0)),
    }
    paths: dict[str, Any] = {name: tuple(name.split(".")) for name in names}
    paths |= {"list.0.x": ("list", 0, "x"), "step": ("step",)}
    objects = {"step": 3, "list.0.x": {"k": 1}}
    return handmade(tmp_path_factory.mktemp("hostile") / "ck", names, objects=objects, paths=paths)


def tensors(node: object) -> Iterator[Node]:
    if isinstance(node, Node):
        yield node
    else:
        for _, part in steps(node):
            yield from tensors(part)


def values(path: Path) -> set[tuple[object, bytes]]:
    """Shape, dtype and bytes of every tensor."""
    stored = open_checkpoint(path)
    named = {str(number): node for number, node in enumerate(tensors(stored.tree))}
    with loaded_tensors(stored, named) as found:
        return {((t.shape, t.dtype), bytes(t.numpy().tobytes())) for t in found.values()}


def bytes_changed(raw: bytes, random_: random.Random) -> bytes:
    """Some bytes changed, removed, doubled or moved."""
    data = bytearray(raw)
    for _ in range(random_.choice((1, 1, 1, 2, 5))):
        at = random_.randrange(len(data))
        size = random_.choice((1, 1, 2, 8, 60))
        match random_.randrange(4):
            case 0:
                data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case _:
                other = random_.randrange(len(data))
                data[at : at + size] = data[other : other + size]
    return bytes(data)


def values_for(random_: random.Random) -> object:
    texts = ("", "model.a", "..", "__0_0.distcp", "__1_0.distcp", "x" * 300, "\udc80", "a\0b")
    counts = (-1, 0, 1, 2, 3, 4, 7, 2**31, 2**63, 2**200, True, 1.0, None)
    sizes: list[object] = [(), (0,), (3,), (4, 4), (3, 4), (2**40, 2**40), (0,) * 70]
    pick: list[object] = [random_.choice(texts), random_.choice(counts), [], {}, object]
    pick += [torch.Size(random_.choice(sizes[:5])), random_.choice(sizes), torch.float16]  # type: ignore[arg-type]
    return random_.choice(pick)


def renamed(node: dict[Any, Any], old: object, new: object) -> None:
    node[new] = node.pop(old)


def fields(node: Any) -> Iterator[tuple[Callable[[object], object], object]]:
    """(how to set it, what it is) of everything in the metadata, keys of dicts included."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            yield partial(node.__setitem__, key), value
            yield partial(renamed, node, key), key
            yield from fields(value)
            yield from fields(key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield partial(node.__setitem__, index), value
            yield from fields(value)
    elif hasattr(node, "__dict__") and type(node).__module__.startswith("torch.distributed"):
        for name, value in list(vars(node).items()):
            yield partial(vars(node).__setitem__, name), value
            yield from fields(value)


def fields_changed(raw: bytes, random_: random.Random) -> bytes:
    """One value of the metadata is another one, or changes places with a third."""
    found = pickle.loads(raw)
    every = list(fields(found))
    assign, _ = random_.choice(every)
    new = random_.choice(every)[1] if random_.random() < 0.5 else values_for(random_)
    try:
        assign(new)
        return pickle.dumps(found)
    except Exception:  # noqa: BLE001 -- what torch itself cannot write or hash is no file
        return raw


def sweep(folder: Path, tmp_path: Path, mutate: Mutate, seeds: range) -> int:
    """The number of mutants that were refused."""
    for file in folder.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    original, wanted = (folder / ".metadata").read_bytes(), values(folder)
    refused = 0
    for seed in seeds:
        (tmp_path / ".metadata").unlink()
        (tmp_path / ".metadata").write_bytes(mutate(original, random.Random(seed)))
        before = digest(tmp_path)
        try:
            assert values(tmp_path) <= wanted, seed
        except StorageError:
            refused += 1
        assert digest(tmp_path) == before
    return refused


@pytest.mark.parametrize("mutate", [bytes_changed, fields_changed])
def test_some_mutants(folder: Path, tmp_path: Path, mutate: Mutate) -> None:
    assert sweep(folder, tmp_path, mutate, range(300)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("mutate", [bytes_changed, fields_changed])
def test_thousands_of_mutants(folder: Path, tmp_path: Path, mutate: Mutate) -> None:
    assert sweep(folder, tmp_path, mutate, range(300, 3300)) > 1000


def test_the_sweep_can_fail(folder: Path, tmp_path: Path) -> None:
    """Swapped places of chunks of one shape give a tensor that nobody saved."""

    def swapped(raw: bytes, random_: random.Random) -> bytes:
        found = pickle.loads(raw)
        first, second = [k for k in found.storage_data if k.fqn == "model.b"][:2]
        data = found.storage_data
        data[first], data[second] = data[second], data[first]
        return pickle.dumps(found)

    assert metadata_of(folder).storage_data
    with pytest.raises(AssertionError):
        sweep(folder, tmp_path, swapped, range(1))
