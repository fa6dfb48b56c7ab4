"""Torch's zip files: real ones read and written back, and every way to be crooked refused."""

from __future__ import annotations

import argparse
import pathlib
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ckmigrate.errors import StorageError
from ckmigrate.formats import torch_zip
from ckmigrate.formats.tree import Object, Storage, Tensor
from ckmigrate.formats.zip_image import Member, zip_image
from ckmigrate.spec import DType, TensorSpec
from tests.torch_files import (
    assemble,
    differences,
    node,
    read_zip,
    record_bytes,
    rewrite,
    save,
    tensor_of,
)
from tests.torch_files import refused_zip as code

DTYPES = [dtype for dtype in DType if dtype.torch_name]


def of_dtype(dtype: DType, *shape: int) -> torch.Tensor:
    """Random bytes as a tensor; a bool has only two."""
    width = max(dtype.bits // 8, 1)
    raw = torch.randint(0, 2 if dtype is DType.BOOL else 256, (*shape[:-1], shape[-1] * width))
    return raw.to(torch.uint8).view(getattr(torch, str(dtype.torch_name)))


def same_bytes(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    one, two = (t.detach().resolve_conj().resolve_neg().contiguous() for t in (one, two))
    return one.flatten().view(torch.uint8).tolist() == two.flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_dtype_is_read_and_written_back(tmp_path: Path, dtype: DType, protocol: int) -> None:
    original = of_dtype(dtype, 3, 4)
    stored = read_zip(save(tmp_path / "a.pt", {"a": original}, pickle_protocol=protocol))
    shape = (3, 8) if dtype is DType.F4 else (3, 4)
    assert node(stored, "a").spec == TensorSpec(dtype, shape)
    assert same_bytes(tensor_of(stored, node(stored, "a")), original)
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)["a"]
    assert same_bytes(back, original)


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda t: t.T,
    "narrowed": lambda t: t[1:3, 1:],
    "strided": lambda t: t[::2, ::3],
    "expanded": lambda t: t[:, :1].expand(4, 7),
    "scalar": lambda t: t[2, 3],
    "empty": lambda t: t[:0],
    "empty inside": lambda t: t[:, 2:2],
    "new axis": lambda t: t[None, :, None],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_keep_their_storage_offset_and_strides(tmp_path: Path, name: str) -> None:
    whole = torch.arange(24.0).view(4, 6)
    view = VIEWS[name](whole)
    stored = read_zip(save(tmp_path / "a.pt", {"whole": whole, "view": view}))
    leaf = node(stored, "view")
    assert leaf.storage is node(stored, "whole").storage
    assert (leaf.offset, leaf.strides) == (view.storage_offset(), view.stride())
    assert torch.equal(tensor_of(stored, leaf), view)
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert torch.equal(back["view"], view)
    assert back["view"].stride() == view.stride()
    assert back["view"].untyped_storage().data_ptr() == back["whole"].untyped_storage().data_ptr()


def test_conj_and_neg_bits_are_kept(tmp_path: Path) -> None:
    base = torch.tensor([1 + 2j, 3 - 4j])
    real = torch.tensor([5 + 6j, 7 - 8j])
    saved = {"conj": base.conj(), "neg": real.conj().imag}
    stored = read_zip(save(tmp_path / "a.pt", saved))
    assert (node(stored, "conj").conj, node(stored, "conj").neg) == (True, False)
    assert (node(stored, "neg").conj, node(stored, "neg").neg) == (False, True)
    assert torch.equal(tensor_of(stored, node(stored, "conj")), base.conj().resolve_conj())
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert back["conj"].is_conj()
    assert back["neg"].is_neg()
    assert all(torch.equal(back[key], saved[key]) for key in saved)


def test_parameters_and_attributes_of_tensors_are_kept(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    tagged: Any = nn.Parameter(torch.ones(3))
    tagged.sequence_parallel = True
    buffer: Any = torch.zeros(1)
    buffer.note = "kept"
    saved = {"p": parameter, "t": tagged, "b": buffer, "g": torch.ones(1, requires_grad=True)}
    stored = read_zip(save(tmp_path / "a.pt", saved))
    assert node(stored, "p").parameter
    assert node(stored, "t").attributes == {"sequence_parallel": True}
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert isinstance(back["p"], nn.Parameter)
    assert not back["p"].requires_grad
    assert back["t"].sequence_parallel is True
    assert back["b"].note == "kept"
    assert [back[key].requires_grad for key in saved] == [False, True, False, True]


def test_a_state_dict_keeps_its_metadata_and_sharing(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    stored = read_zip(save(tmp_path / "a.pt", model.state_dict()))
    assert isinstance(stored.tree, Object)
    first, last = (stored.tree.entries[f"{i}.weight"] for i in (0, 2))
    assert isinstance(first, Tensor)
    assert isinstance(last, Tensor)
    assert first.storage is last.storage
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert isinstance(back, OrderedDict)
    assert back._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(back)


def lightning() -> dict[str, object]:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"args": argparse.Namespace(lr=1e-3, dims=(1, 2)), "dtype": torch.half},
        "callbacks": {"ckpt": {"best": pathlib.PurePosixPath("a/b"), "score": torch.tensor(0.5)}},
        "rng": {"numpy": np.random.RandomState(3).get_state(), "torch": torch.get_rng_state()},
        "loss": np.float32(0.25),
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda", 1),
        "counts": defaultdict(list, {"a": [1]}),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint_comes_back_whole(tmp_path: Path, protocol: int) -> None:
    saved = lightning()
    stored = read_zip(save(tmp_path / "a.ckpt", saved, pickle_protocol=protocol))
    path = rewrite(stored, tmp_path / "b.ckpt")
    back = torch.load(path, weights_only=False)
    for key in ("epoch", "hyper_parameters", "loss", "size", "device", "counts"):
        assert back[key] == saved[key]
        assert type(back[key]) is type(saved[key])
    assert repr(back["optimizer_states"]) == repr(saved["optimizer_states"])
    assert repr(back["callbacks"]) == repr(saved["callbacks"])
    assert repr(back["rng"]) == repr(saved["rng"])
    assert differences(read_zip(path).tree, stored.tree) == []


def test_storages_that_stand_alone_are_kept(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    stored = read_zip(save(tmp_path / "a.pt", [torch.ones(2).untyped_storage(), tensor]))
    assert isinstance(stored.tree, list)
    assert isinstance(stored.tree[0], Storage)
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert bytes(back[0]._untyped_storage) == np.ones(2, np.float32).tobytes()


def test_one_storage_under_several_dtypes_is_written_untyped(tmp_path: Path) -> None:
    storage = Storage("x", DType.U8, 8)
    wide = Tensor(storage, TensorSpec(DType.F64, (1,)), 0, (1,))
    narrow = Tensor(storage, TensorSpec(DType.I16, (2,)), 2, (1,))
    image = torch_zip.image({"wide": wide, "narrow": narrow}, tag=None)
    path = tmp_path / "a.pt"
    path.write_bytes(assemble(image, {"x": bytes([0, 0, 0, 0, 1, 0, 2, 0])}))
    back = torch.load(path, weights_only=True)
    assert back["narrow"].tolist() == [1, 2]
    assert back["wide"].untyped_storage().data_ptr() == back["narrow"].untyped_storage().data_ptr()
    assert node(read_zip(path), "narrow").spec.dtype is DType.I16


def test_a_written_file_can_be_mapped_and_is_aligned(tmp_path: Path) -> None:
    saved = {f"w{i}": torch.randn(5 + i) for i in range(5)}
    stored = read_zip(save(tmp_path / "a.pt", saved))
    path = rewrite(stored, tmp_path / "b.pt")
    back = torch.load(path, mmap=True, weights_only=True)
    assert all(torch.equal(back[key], saved[key]) for key in saved)
    on_meta = torch.load(path, map_location="meta", weights_only=True)
    assert on_meta["w3"].shape == (8,)
    assert all(record.offset % 64 == 0 for record in read_zip(path).records.values())


def test_phases_put_the_data_where_a_block_can_be_shared(tmp_path: Path) -> None:
    stored = read_zip(save(tmp_path / "a.pt", {"a": torch.randn(9), "b": torch.randn(9)}))
    keys = list(stored.records)
    wanted = {keys[0]: 4032, keys[1]: 33}
    image = torch_zip.image(stored.tree, tag=None, phases=wanted)
    assert image.slots[keys[0]].offset % 4096 == 4032
    assert image.slots[keys[1]].offset % 64 == 0
    path = tmp_path / "b.pt"
    path.write_bytes(assemble(image, record_bytes(stored)))
    assert torch.load(path, weights_only=True)["a"].shape == (9,)
    assert record_bytes(read_zip(path)).keys() == {"0", "1"}


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    stored = read_zip(save(tmp_path / "a.ckpt", lightning()))
    one = rewrite(stored, tmp_path / "b.ckpt", tag="{}").read_bytes()
    again = read_zip(save(tmp_path / "a.ckpt", torch.load(tmp_path / "a.ckpt", weights_only=False)))
    assert rewrite(again, tmp_path / "c.ckpt", tag="{}").read_bytes() == one


# --- the tag ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tag_as", ["key", "record"])
def test_the_tag_is_written_and_read_and_not_in_the_tree(tmp_path: Path, tag_as: Any) -> None:
    stored = read_zip(save(tmp_path / "a.pt", {"model": {"w": torch.ones(1)}}))
    path = rewrite(stored, tmp_path / "b.pt", tag='{"é": 1}', tag_as=tag_as)
    tagged = read_zip(path)
    assert tagged.tag == '{"é": 1}'
    assert differences(tagged.tree, stored.tree) == []
    loaded = torch.load(path, weights_only=True)
    assert ("ckmigrate" in loaded) is (tag_as == "key")


def test_a_tag_in_an_ordered_dict_is_taken_from_a_saved_file(tmp_path: Path) -> None:
    saved = OrderedDict(model=OrderedDict(w=torch.ones(1)), ckmigrate='{"format": 1}')
    stored = read_zip(save(tmp_path / "a.pt", saved))
    assert stored.tag == '{"format": 1}'
    assert isinstance(stored.tree, Object)
    assert list(stored.tree.entries) == ["model"]


@pytest.mark.parametrize("value", [{"format": 1}, torch.ones(1), None])
def test_a_foreign_value_under_the_key_of_the_tag_is_an_error(tmp_path: Path, value: Any) -> None:
    assert code(save(tmp_path / "a.pt", {"ckmigrate": value})) == "CKM716"


def test_two_tags_that_differ_are_an_error(tmp_path: Path) -> None:
    def with_record(text: bytes) -> Path:
        path = save(tmp_path / "a.pt", {"ckmigrate": "one"})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a/ckmigrate.json", text)
        return path

    assert read_zip(with_record(b"one")).tag == "one"
    assert code(with_record(b"two")) == "CKM716"
    assert code(with_record(b"\xff")) == "CKM716"
    assert code(with_record(b"x" * (2**20 + 1))) == "CKM715"


@pytest.mark.parametrize("tree", [[1], {"ckmigrate": "x"}, None])
def test_a_tag_without_a_place_is_an_error(tree: object) -> None:
    with pytest.raises(StorageError) as caught:
        torch_zip.image(tree, tag="{}", tag_as="key")
    assert caught.value.code == "CKM716"


# --- what is not a checkpoint, or not a sound one --------------------------------------------


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    parts = {"data.pkl": b"\x80\x02}.", "constants.pkl": b"\x80\x02).", "code/x.py": b"pass"}
    members = [Member(f"m/{name}", len(raw), raw) for name, raw in parts.items()]
    path.write_bytes(assemble(zip_image(members), {}))
    with pytest.raises(StorageError, match="state_dict") as caught:
        read_zip(path)
    assert caught.value.code == "CKM714"


def hand_made(path: Path, pickled: bytes, **records: bytes) -> Path:
    parts = {"data.pkl": pickled, "version": b"3\n", **records}
    members = [Member(f"m/{name.replace('__', '/')}", len(raw), raw) for name, raw in parts.items()]
    path.write_bytes(assemble(zip_image(members), {}))
    return path


def one_tensor(numel: int = 4, shape: bytes = b"K\x04\x85", kind: str = "FloatStorage") -> bytes:
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    body += f"ctorch\n{kind}\n".encode() + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    body += b"\x8a\x08" + numel.to_bytes(8, "little") + b"tQK\x00" + shape + b"K\x01\x85\x89NtR."
    return body


def test_a_record_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert isinstance(read_zip(hand_made(path, one_tensor(), data__0=b"\0" * 16)).tree, Tensor)
    assert code(hand_made(path, one_tensor(), data__0=b"\0" * 15)) == "CKM710"
    assert code(hand_made(path, one_tensor())) == "CKM710"
    assert code(hand_made(path, one_tensor(numel=2**62), data__0=b"\0" * 16)) == "CKM710"
    assert code(hand_made(path, one_tensor(shape=b"K\x05\x85"), data__0=b"\0" * 16)) == "CKM710"
    assert code(hand_made(path, one_tensor(shape=b"\x88\x85"), data__0=b"\0" * 16)) == "CKM710"


def test_one_record_under_two_types_or_places_is_refused(tmp_path: Path) -> None:
    path, record = tmp_path / "a.pt", {"data__0": b"\0" * 16}
    one = one_tensor()[2:-1]
    for other in (one.replace(b"FloatS", b"IntS"), one.replace(b"cpu", b"gpu")):
        pickled = b"\x80\x02](" + one + other + b"e."
        with pytest.raises(StorageError, match="is named with two") as caught:
            read_zip(hand_made(path, pickled, **record))
        assert caught.value.code == "CKM710"


def test_quantised_storages_are_named(tmp_path: Path) -> None:
    path = hand_made(tmp_path / "a.pt", one_tensor(kind="QInt8Storage"), data__0=b"\0" * 4)
    with pytest.raises(StorageError, match="quantised") as caught:
        read_zip(path)
    assert caught.value.code == "CKM713"


def test_byte_order_and_version_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = {"data__0": b"\0" * 16}
    assert (
        read_zip(hand_made(path, one_tensor(), byteorder=b"big", **content)).records["0"].big_endian
    )
    assert code(hand_made(path, one_tensor(), byteorder=b"middle", **content)) == "CKM715"
    assert code(hand_made(path, one_tensor(), **content, version=b"99")) == "CKM715"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_other_kinds_of_tensors_are_refused_by_name(tmp_path: Path) -> None:
    kinds = {
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "meta": torch.ones(2, device="meta"),
    }
    for name, tensor in kinds.items():
        with pytest.raises(StorageError, match=name) as caught:
            read_zip(save(tmp_path / "a.pt", {"w": tensor}))
        assert caught.value.code == "CKM713"


def test_a_whole_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(StorageError, match="Sequential") as caught:
        read_zip(path)
    assert caught.value.code == "CKM711"
    assert "model.state_dict()" in str(caught.value.fix)
    assert "--carry torch.nn.modules.linear.Linear" in str(caught.value.fix)
    carried = read_zip(path, carry=["torch.nn.modules.*"])
    back = torch.load(rewrite(carried, tmp_path / "b.pt"), weights_only=False)
    assert isinstance(back[0], nn.Linear)


def test_a_buffer_is_no_zip() -> None:
    assert torch_zip.is_torch_zip(b"PK\x03\x04rest")
    assert not torch_zip.is_torch_zip(b"\x80\x02}")
