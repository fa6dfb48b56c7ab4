"""Tensors of every kind that torch saves, moved by ranges and by gathers, read back by torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.source import SourceFile
from ckmigrate.formats.open_checkpoint import open_checkpoint, open_regular
from ckmigrate.spec import DType
from ckmigrate.training.layouts import find_weights
from tests.projects import Zoo, load, names_in, same

TORCH = [d for d in DType if d.torch_name and d.bits >= 8 and hasattr(torch, d.torch_name)]
HELD = [d for d in TORCH if d is not DType.C128]
MOVES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "whole": ("ck.rename('a', 'b')", lambda t: t),
    "rows": ("ck.slice('a', dim=0, start=1, stop=5)\nck.rename('a', 'b')", lambda t: t[1:5]),
    "columns": ("ck.slice('a', dim=1, start=2)\nck.rename('a', 'b')", lambda t: t[:, 2:]),
    "transposed": ("ck.transpose('a', 0, 1)\nck.rename('a', 'b')", lambda t: t.transpose(0, 1)),
    "joined": (
        "ck['b'] = concat([ck['a'][3:], ck.take('a')[:3].flatten().reshape(3, 4)], dim=0)",
        lambda t: torch.cat([t[3:], t[:3]]),
    ),
}


def _raw(tensor: Tensor) -> Tensor:
    """The same items as numbers that torch moves without looking at them."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(width.get(tensor.itemsize, tensor.dtype))


def noise(dtype: DType, *shape: int) -> Tensor:
    """Every bit is random: NaN payloads, bool bytes other than 0 and 1, subnormals."""
    count = torch.Size(shape).numel() * dtype.bits // 8
    generator = torch.Generator().manual_seed(dtype.bits)
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(getattr(torch, str(dtype.torch_name))).reshape(shape)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_no_bit_of_any_dtype_changes_in_a_torch_file(
    tmp_path: Path, dtype: DType, move: str
) -> None:
    script, expected = MOVES[move]
    zoo = Zoo(tmp_path, script)
    tensor = noise(dtype, 6, 4)
    found = load(zoo.upgrade(zoo.save({"a": tensor})))["b"]
    # torch itself makes 0 or 1 of the bytes of a bool that it copies: compare what it cannot read.
    assert found.dtype == tensor.dtype
    assert same({"b": _raw(found)}, {"b": expected(_raw(tensor))})


@pytest.mark.parametrize("move", ["whole", "transposed"])
@pytest.mark.parametrize("dtype", HELD, ids=str)
def test_no_bit_of_any_dtype_changes_on_the_way_to_safetensors(
    tmp_path: Path, dtype: DType, move: str
) -> None:
    script, expected = MOVES[move]
    zoo = Zoo(tmp_path, script)
    tensor = noise(dtype, 6, 4)
    stored = open_checkpoint(zoo.upgrade(zoo.save({"a": tensor}), "new.safetensors"))
    record = stored.records["b"]
    raw = stored.path.read_bytes()[record.offset : record.offset + record.nbytes]
    assert raw == expected(_raw(tensor)).contiguous().numpy().tobytes()


VIEWS: dict[str, Callable[[], Tensor]] = {
    "a chunk": lambda: torch.randn(100, 40)[7:9],
    "the first rows": lambda: torch.randn(100, 40)[:2],
    "columns": lambda: torch.randn(10, 40)[:, 3:9],
    "every other": lambda: torch.randn(64)[1::2],
    "transposed": lambda: torch.randn(5, 7).t(),
    "expanded": lambda: torch.randn(1, 4).expand(6, 4),
    "one value": lambda: torch.randn(()).expand(3, 2),
    "overlapping": lambda: torch.arange(10.0).unfold(0, 4, 2),
    "scalar": lambda: torch.tensor(3.5),
    "scalar of a vector": lambda: torch.arange(9.0)[4],
    "empty": lambda: torch.empty(0, 3),
    "empty view": lambda: torch.randn(5, 3)[:, 1:1],
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "size one, odd stride": lambda: torch.randn(3, 4)[:, 2:3],
    "conjugate": lambda: torch.randn(4, 3, dtype=torch.complex64).conj(),
    "conjugate double": lambda: torch.randn(4, 3, dtype=torch.complex128).conj().t(),
    "negative": lambda: torch.randn(4, dtype=torch.complex64).conj().imag,
    "negative view": lambda: torch._neg_view(torch.randn(4, 2)),
    "negative whole numbers": lambda: torch._neg_view(torch.arange(-3, 4)),
    "negative bytes": lambda: torch._neg_view(torch.arange(0, 7, dtype=torch.uint8)),
    "both": lambda: torch._neg_view(torch.randn(5, dtype=torch.complex64)).conj(),
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_views_are_written_as_the_values_that_they_show(
    tmp_path: Path, kind: str, suffix: str, legacy: bool
) -> None:
    torch.manual_seed(0)
    tensor = VIEWS[kind]()
    if suffix == ".safetensors" and tensor.dtype == torch.complex128:
        pytest.skip("safetensors has no complex128")
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": tensor}, _use_new_zipfile_serialization=not legacy)
    found = load(zoo.upgrade(old, f"new{suffix}"))
    assert same(found, {"b": tensor})
    assert found["b"].is_contiguous()
    assert not found["b"].is_conj()
    assert not found["b"].is_neg()


@pytest.mark.parametrize("first", [0, 5])
def test_a_chunk_of_a_large_tensor_is_written_alone(tmp_path: Path, first: int) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.randn(1_000_000)[first : first + 3]})
    assert old.stat().st_size > 4_000_000
    assert zoo.upgrade(old).stat().st_size < 10_000


def test_parts_of_one_buffer_become_tensors_of_their_own(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('{n}', 'x.{n}')")
    buffer = torch.randn(12)
    state = {"a": buffer[:4], "b": buffer[2:8].view(2, 3), "c": buffer}
    found = load(zoo.upgrade(zoo.save(state)))
    assert same(found, {f"x.{name}": tensor for name, tensor in state.items()})
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 3


# --- big-endian files -------------------------------------------------------------------------


def big_endian(path: Path, widths: dict[str, int]) -> Path:
    """The file as a big-endian machine writes it; item widths by the storage's key."""
    new = path.with_name(f"big-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as out:
        for info in old.infolist():
            data, name = old.read(info), info.filename.rpartition("/")[2]
            if name == "byteorder":
                data = b"big"
            elif "/data/" in info.filename:
                data = swapped(data, widths[name])
            out.writestr(info.filename, data)
    return new


def swapped(data: bytes, width: int) -> bytes:
    items = [data[i : i + width][::-1] for i in range(0, len(data), width)]
    return b"".join(items)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_big_endian_file_becomes_a_little_endian_one(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, "ck.rename('{n}', 'x.{n}')\nck.transpose('x.float', 0, 1)")
    state = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "long": torch.arange(4) - 2,
        "bytes": torch.arange(5, dtype=torch.uint8),
        "view": torch.randn(4, 6)[1:, ::2],
        "complex": torch.randn(3, dtype=torch.complex64),
        "conj": torch.randn(3, dtype=torch.complex64).conj(),
    }
    widths = {"0": 4, "1": 2, "2": 8, "3": 1, "4": 4, "5": 4, "6": 4}
    old = big_endian(zoo.save(state), widths)
    assert same(load(old), state)
    expected = {f"x.{name}": tensor for name, tensor in state.items()}
    expected["x.float"] = state["float"].t()
    assert same(load(zoo.upgrade(old, f"new{suffix}")), expected)


def test_a_big_endian_storage_that_passes_through_is_swapped_too(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    state = {"state_dict": {"a": torch.randn(3)}, "rates": torch.arange(6, dtype=torch.int64)}
    old = big_endian(zoo.save(state), {"0": 4, "1": 8})
    found = load(zoo.upgrade(old))
    assert found["rates"].tolist() == [0, 1, 2, 3, 4, 5]


# --- reading ----------------------------------------------------------------------------------


def source_of(path: Path) -> tuple[int, SourceFile]:
    stored = open_checkpoint(path)
    fd = open_regular(path)
    return fd, SourceFile((fd,), stored, find_weights(stored).entries)


def test_a_record_is_checked_once_whatever_is_read_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Zoo(tmp_path).save({"a": torch.arange(1000.0)})
    fd, source = source_of(path)
    read: list[int] = []

    def count(name: str, arguments: tuple[object, ...]) -> None:
        if name == "pread":
            read.append(int(str(arguments[1])))

    monkeypatch.setattr(syscalls, "before", count)
    for first in (0, 500, 900):
        part = source.read("a", first, 10)
        assert torch.frombuffer(bytearray(part), dtype=torch.float32)[0] == first
    assert sum(read) == 4000 + 3 * 40
    syscalls.close(fd)


def test_a_damaged_record_is_an_error_before_any_of_it_is_used(tmp_path: Path) -> None:
    path = Zoo(tmp_path).save({"a": torch.arange(1000.0)})
    damage(path, "0")
    fd, source = source_of(path)
    with pytest.raises(StorageError) as caught:
        source.read("a", 990, 1)
    assert caught.value.code == "CKM760"
    syscalls.close(fd)


def damage(path: Path, key: str) -> None:
    """Flip one bit in the middle of a record."""
    record = open_checkpoint(path).records[key]
    data = bytearray(path.read_bytes())
    data[record.offset + record.nbytes // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("script", ["ck.rename('a', 'b')", "ck.slice('a', dim=0, stop=10)"])
@pytest.mark.parametrize("out", ["new.pt", "new.safetensors"])
def test_damage_in_a_used_record_writes_nothing(tmp_path: Path, script: str, out: str) -> None:
    zoo = Zoo(tmp_path, script)
    old = zoo.save({"a": torch.arange(1000.0), "z": torch.arange(10.0)})
    damage(old, "0")
    error = zoo.refusal(old, out)
    assert error.code == "CKM760"
    assert "'a'" in error.what
    assert names_in(tmp_path) == ["ckmigrate.toml", "migrations", "old.pt"]


def test_damage_in_a_record_that_passes_through_writes_nothing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"model": {"a": torch.ones(3)}, "rng": torch.arange(1000, dtype=torch.uint8)})
    damage(old, "1")
    assert zoo.refusal(old).code == "CKM760"


def test_damage_in_what_is_dropped_is_nobodys_business(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('z', reason='unused')")
    old = zoo.save({"a": torch.ones(3), "z": torch.arange(10.0)})
    damage(old, "1")
    assert load(zoo.upgrade(old))["a"].tolist() == [1, 1, 1]


def test_damage_is_found_where_a_tensor_is_strided(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    old = zoo.save({"a": torch.randn(30, 40).t()})
    damage(old, "0")
    assert zoo.refusal(old, "new.safetensors").code == "CKM760"
