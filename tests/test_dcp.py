"""Reading DCP folders: values as torch has them, and clear errors for what is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ckmigrate.errors import StorageError
from ckmigrate.execute.source import open_source
from ckmigrate.expr import Source
from ckmigrate.formats.base import Stored
from ckmigrate.formats.dcp_metadata import parse_metadata, render_metadata
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor as Node
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.lower import Copy, Gather, lower
from ckmigrate.training.layouts import find_weights
from tests.dcp_folders import (
    grid,
    handmade,
    metadata_of,
    rewrite,
    rows,
    save,
    save_item,
    whole,
)


def numbers(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape)


def values(stored: Stored) -> dict[str, Tensor]:
    """The tensors of a flat folder, with their values."""
    entries = {str(k): v for k, v in dict_of(stored).items() if isinstance(v, Node)}
    with loaded_tensors(stored, entries) as found:
        return {name: tensor.clone() for name, tensor in found.items()}


def dict_of(stored: Stored) -> dict[object, object]:
    assert isinstance(stored.tree, dict)
    return stored.tree


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        raw = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(*raw), name


def test_a_nested_dict_is_read_as_it_was_saved(tmp_path: Path) -> None:
    state = {
        "model": {"a.weight": numbers(3, 4), "b": numbers(2)},
        "step": 3,
        "epochs": [1, 2],
        "scheduler": {"last": 0.5, "best": torch.tensor(2.0)},
        "mixed": [torch.ones(2), {"x": 1}],
    }
    stored = open_checkpoint(save(tmp_path / "ck", state))
    tree = dict_of(stored)
    assert stored.format == "dcp"
    assert (tree["step"], tree["epochs"]) == (3, [1, 2])
    mixed = tree["mixed"]
    assert isinstance(mixed, list)
    assert mixed[1] == {"x": 1}
    layout = find_weights(stored)
    assert layout.path == ("model",)
    with loaded_tensors(stored, layout.entries) as found:
        assert_same(found, {"a.weight": numbers(3, 4), "b": numbers(2)})


def test_every_dtype_and_odd_shape(tmp_path: Path) -> None:
    names = "float8_e4m3fn float8_e5m2 bfloat16 float16 float64 complex64 int8 int64 uint8 bool"
    state = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names.split()}
    state |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "one": torch.ones(1)}
    state |= {"last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    state |= {"conj": torch.tensor([1 + 2j]).conj(), "turned": torch.randn(3, 4).t()}
    assert_same(
        values(open_checkpoint(save(tmp_path / "ck", state))),
        {name: tensor.resolve_conj() for name, tensor in state.items()},
    )


def test_tensors_in_chunks_are_put_together(tmp_path: Path) -> None:
    wanted = {"rows": numbers(7, 4), "columns": numbers(4, 6), "grid": numbers(7, 6, 2)}
    wanted |= {"narrow": numbers(5).to(torch.bfloat16), "big": numbers(40, 3)}
    path = handmade(
        tmp_path / "ck",
        {
            "rows": rows(wanted["rows"], 4, 3),
            "columns": grid(wanted["columns"], (4,), (2, 2, 2)),
            "grid": grid(wanted["grid"], (2, 5), (1, 3, 2), (2,)),
            "narrow": rows(wanted["narrow"], 2, 2, 1, 0),
            "big": rows(wanted["big"], *[1] * 40),
        },
        files=3,
    )
    stored = open_checkpoint(path)
    assert_same(values(stored), wanted)
    assert stored.records["/columns"].scattered
    assert not stored.records["/rows"].scattered


def test_rows_are_byte_ranges_and_columns_are_not(tmp_path: Path) -> None:
    parts = {"rows": rows(numbers(7, 4), 4, 3), "columns": grid(numbers(4, 6), (4,), (3, 3))}
    stored = open_checkpoint(handmade(tmp_path / "ck", parts))
    layout = find_weights(stored)
    with open_source(stored, layout.entries) as source:
        for name, kind in (("rows", Copy), ("columns", Gather)):
            assert isinstance(lower(Source(name, layout.entries[name].spec), source.is_plain), kind)
            assert source.read(name, 3, 5) == part_of(parts[name][0], 3, 5)


def part_of(tensor: Tensor, first: int, count: int) -> bytes:
    return bytes(tensor.reshape(-1)[first : first + count].numpy().tobytes())


def test_chunks_that_are_no_rows_of_memory(tmp_path: Path) -> None:
    """Transposed, conjugated, and part of a larger storage."""
    wanted = torch.complex(numbers(6, 4), numbers(6, 4))
    kinds: list[Callable[[Tensor], object]] = [
        lambda chunk: chunk.t().contiguous().t(),
        lambda chunk: chunk.conj().resolve_conj().conj(),
        lambda chunk: torch.cat([chunk, chunk])[chunk.shape[0] :],
    ]
    for number, kind in enumerate(kinds):
        path = handmade(tmp_path / str(number), {"w": rows(wanted, 4, 2)}, value=kind)
        assert_same(values(open_checkpoint(path)), {"w": wanted})


def test_one_place_for_two_names_is_a_tie(tmp_path: Path) -> None:
    def tie(found: Any) -> None:
        found.state_dict_metadata["b"] = found.state_dict_metadata["a"]
        found.planner_data["b"] = ("b",)
        (index,) = found.storage_data
        found.storage_data[type(index)("b", index.offset)] = found.storage_data[index]

    path = handmade(tmp_path / "ck", {"a": whole(numbers(3))}, files=1)
    stored = open_checkpoint(rewrite(path, tie))
    assert_same(values(stored), {"a": numbers(3), "b": numbers(3)})
    assert find_weights(stored).ties == (("a", "b"),)


def test_metadata_is_written_as_it_was_read(tmp_path: Path) -> None:
    path = save(tmp_path / "ck", {"model": {"a": numbers(3, 4)}, "list": [{"x": torch.ones(1)}]})
    raw = (path / ".metadata").read_bytes()
    new = render_metadata(parse_metadata(raw, where="x"))
    old = metadata_of(path)
    (path / ".metadata").write_bytes(new)
    assert metadata_of(path) == old
    assert render_metadata(parse_metadata(new, where="x")) == new


def test_a_flat_save_has_no_paths(tmp_path: Path) -> None:
    path = handmade(tmp_path / "ck", {"a.b": whole(numbers(3))})
    rewrite(path, lambda found: setattr(found, "planner_data", None))
    assert list(dict_of(open_checkpoint(path))) == ["a.b"]


def test_flattened_optimizer_state_is_known(tmp_path: Path) -> None:
    optim = {"state.a.exp_avg": numbers(3), "param_groups.a.lr": 0.1}
    stored = open_checkpoint(save(tmp_path / "ck", {"model": {"a": numbers(3)}, "optim": optim}))
    (outside,) = find_weights(stored).training_state
    assert (outside.path, outside.kind) == (("optim",), "optimizer")


# --- what is wrong ----------------------------------------------------------------------------


def refusal(path: Path) -> StorageError:
    with pytest.raises(StorageError) as refused:
        open_checkpoint(path)
    return refused.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return handmade(
        tmp_path / "ck",
        {"w": rows(numbers(7, 4), 4, 3), "v": whole(numbers(3))},
        objects={"step": 3},
    )


def info(found: Any, name: str, number: int = 0) -> Any:
    return [v for k, v in found.storage_data.items() if k.fqn == name][number]


def item(found: Any, name: str = "w") -> Any:
    return found.state_dict_metadata[name]


@pytest.mark.parametrize(
    "name",
    ["../x.distcp", "/etc/passwd", "a/b", "", "..", ".", "a\\b", ".metadata", "a\nb", "x" * 300],
)
def test_a_data_file_lies_in_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "x.distcp").write_bytes((folder / "__0_0.distcp").read_bytes())
    rewrite(folder, lambda found: put(info(found, "w"), relative_path=name))
    assert refusal(folder).code == "CKM781"


Change = Callable[[Any], object]


def put(node: Any, **fields: object) -> None:
    vars(node).update(fields)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("CKM783", lambda f: item(f).chunks.pop()),
        ("CKM784", lambda f: item(f).chunks.append(item(f).chunks[0])),
        ("CKM783", lambda f: put(item(f), size=torch.Size([8, 4]))),
        ("CKM783", lambda f: put(item(f), size=torch.Size([7, 5]))),
        ("CKM783", lambda f: put(item(f).chunks[0], sizes=torch.Size([4, 4, 1]))),
        ("CKM784", lambda f: put(item(f).properties, dtype=torch.float64)),
        ("CKM784", lambda f: put(info(f, "v"), length=10**9)),
        ("CKM784", lambda f: put(info(f, "v"), offset=10**15)),
        ("CKM784", lambda f: put(info(f, "v"), relative_path="__1_0.distcp")),
        ("CKM784", lambda f: put(info(f, "v"), offset=info(f, "v").offset + 1, length=9)),
        ("CKM784", lambda f: (vars(info(f, "step")).update(vars(info(f, "v"))))),
        ("CKM785", lambda f: put(info(f, "v"), transform_descriptors=["stream.zstd/1"])),
        ("CKM782", lambda f: put(info(f, "v"), relative_path="gone.distcp")),
        ("CKM780", lambda f: f.planner_data.pop("v")),
        ("CKM780", lambda f: f.planner_data.update(v=("w",))),
        ("CKM780", lambda f: f.planner_data.update(v=("w", "x"))),
        ("CKM780", lambda f: f.planner_data.update(v=("x", 10**9))),
        ("CKM780", lambda f: f.planner_data.update(v=(0,))),
        ("CKM780", lambda f: setattr(f, "state_dict_metadata", None)),
        ("CKM780", lambda f: setattr(f, "storage_data", None)),
        ("CKM780", lambda f: f.storage_data.clear()),
        ("CKM780", lambda f: put(item(f).properties, dtype=torch.quint8)),
    ],
)  # fmt: skip
def test_a_wrong_metadata_is_refused(folder: Path, code: str, change: Change) -> None:
    rewrite(folder, change)
    assert refusal(folder).code == code


def test_missing_and_cut_data_files(folder: Path) -> None:
    data = folder / "__1_0.distcp"
    raw = data.read_bytes()
    for length in (0, 3, len(raw) - 1):
        data.write_bytes(raw[:length])
        assert refusal(folder).code == "CKM784"
    data.unlink()
    assert refusal(folder).code == "CKM782"
    os.symlink("/nowhere", data)
    assert refusal(folder).code == "CKM782"
    os.unlink(data)
    os.mkdir(data)
    assert refusal(folder).code == "CKM782"


def test_damaged_values_are_found_when_they_are_read(folder: Path) -> None:
    stored = open_checkpoint(folder)
    node = dict_of(stored)["w"]
    assert isinstance(node, Node)
    part = stored.records["/w"].boxes[1].tensor
    record = stored.records[part.storage.key]
    file = stored.files[record.file].path
    raw = bytearray(file.read_bytes())
    raw[record.offset] ^= 1
    file.write_bytes(raw)
    with open_source(open_checkpoint(folder), {"w": node}) as source:
        assert source.read("w", 0, 4)
        with pytest.raises(StorageError, match="damaged"):
            source.read("w", 20, 4)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo evil > /tmp/evil",)


class Unknown:
    """A class of somebody's project."""


def test_hostile_pickles_are_refused(folder: Path) -> None:
    rewrite(folder, lambda found: setattr(found, "storage_meta", Evil()))
    assert refusal(folder).code == "CKM712"


@pytest.mark.parametrize(("value", "code"), [(Evil(), "CKM712"), (Unknown(), "CKM711")])
def test_hostile_objects_are_refused(tmp_path: Path, value: object, code: str) -> None:
    path = handmade(tmp_path / "ck", {"w": whole(numbers(3))}, objects={"x": value})
    assert refusal(path).code == code


def test_hostile_chunks_are_refused(tmp_path: Path) -> None:
    path = handmade(tmp_path / "ck", {"w": whole(numbers(3))}, value=lambda chunk: Evil())
    assert refusal(path).code == "CKM712"
    path = handmade(tmp_path / "no", {"w": whole(numbers(3))}, value=lambda chunk: [chunk])
    assert refusal(path).code == "CKM784"


def test_a_class_can_be_carried(tmp_path: Path) -> None:
    path = handmade(tmp_path / "ck", {"w": whole(numbers(3))}, objects={"x": Unknown()})
    assert open_checkpoint(path, carry=[f"{Unknown.__module__}.Unknown"]).format == "dcp"


def test_chunks_of_another_serialisation_are_refused(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
    from torch.distributed.checkpoint.state_dict_saver import save as save_to

    writer = FileSystemWriter(tmp_path / "ck", serialization_format=SerializationFormat.SAFETENSORS)
    with pytest.warns(UserWarning, match="single process"):
        save_to({"a": numbers(3), "b": numbers(4)}, storage_writer=writer, no_dist=True)
    error = refusal(tmp_path / "ck")
    assert error.code == "CKM784"
    assert "safetensors" in f"{error.why}"


def test_several_checkpoints_in_one_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")
    assert refusal(folder).code == "CKM765"
    assert open_checkpoint(folder / ".metadata").format == "dcp"
    (folder / "model.safetensors.index.json").rename(folder / "__0.metadata")
    assert refusal(folder).code == "CKM765"


def test_a_metadata_of_something_else_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_text("etag: 1\n")
    assert refusal(tmp_path).code == "CKM707"


def test_a_tag_that_is_none(folder: Path) -> None:
    for text in ("{", "[]", '{"tags": 3}', '{"tags": [3]}', '{"tags": [{"metadata": 3}]}'):
        (folder / "ckmigrate.json").write_text(text)
        assert refusal(folder).code == "CKM786"


def test_an_item_is_what_torch_saves() -> None:
    assert save_item(3)[:2] == b"PK"
