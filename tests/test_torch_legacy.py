"""Files of torch before 1.6: real ones read and written as zips, crooked ones refused."""

from __future__ import annotations

import argparse
import pickle
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from ckmigrate.errors import StorageError
from ckmigrate.formats.torch_legacy import is_torch_legacy
from ckmigrate.formats.tree import Object, Tensor
from ckmigrate.spec import DType
from tests.torch_files import differences, read_legacy, read_zip, rewrite, tensor_of

OLD_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.complex128,
]


def save(path: Path, value: object, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return path


def code(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        read_legacy(path)
    return caught.value.code


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", OLD_DTYPES, ids=str)
def test_tensors_are_read_and_written_as_zip(
    tmp_path: Path, dtype: torch.dtype, protocol: int
) -> None:
    whole = torch.arange(12).to(dtype).view(3, 4)
    saved = {"whole": whole, "view": whole.T[1:], "empty": whole[:0], "scalar": whole[1, 2]}
    stored = read_legacy(save(tmp_path / "a.pt", saved, protocol))
    assert stored.details == {"container": "legacy"}
    assert stored.format == "torch"
    assert isinstance(stored.tree, dict)
    assert all(torch.equal(tensor_of(stored, stored.tree[key]), saved[key]) for key in saved)
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=True)
    assert all(torch.equal(back[key], saved[key]) for key in saved)
    assert back["view"].stride() == saved["view"].stride()


def test_untyped_dtypes_are_read(tmp_path: Path) -> None:
    stored = read_legacy(save(tmp_path / "a.pt", {"w": torch.arange(5).to(torch.uint16)}))
    assert isinstance(stored.tree, dict)
    assert stored.tree["w"].spec.dtype is DType.U16
    assert tensor_of(stored, stored.tree["w"]).tolist() == [0, 1, 2, 3, 4]


def test_a_training_checkpoint_comes_with_its_tag(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    saved = {"model": model.state_dict(), "args": argparse.Namespace(a=1), "ckmigrate": "{}"}
    stored = read_legacy(save(tmp_path / "a.pt", saved))
    assert stored.tag == "{}"
    back = torch.load(rewrite(stored, tmp_path / "b.pt"), weights_only=False)
    assert back.keys() == {"model", "args"}
    model.load_state_dict(back["model"])


def test_a_long_pickle_is_read_in_several_steps(tmp_path: Path) -> None:
    saved = {"text": "x" * 3_000_000, "w": torch.arange(3.0)}
    stored = read_legacy(save(tmp_path / "a.pt", saved))
    assert isinstance(stored.tree, dict)
    assert tensor_of(stored, stored.tree["w"]).tolist() == [0, 1, 2]


def test_storage_views_of_old_files_are_seen_through(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.arange(10.0)[:4]})
    data = path.read_bytes()
    key = next(iter(read_legacy(path).records))
    before, marker, after = data.partition(b"K\nNt")
    assert marker
    view = b"(X\x01\x00\x00\x00vK\x03K\x05tt"
    path.write_bytes(before + b"K\n" + view + after)
    stored = read_legacy(path)
    assert isinstance(stored.tree, dict)
    leaf = stored.tree["w"]
    assert isinstance(leaf, Tensor)
    assert (leaf.storage.key, leaf.offset) == (key, 3)
    assert tensor_of(stored, leaf).tolist() == [3, 4, 5, 6]
    path.write_bytes(before + b"K\n" + view.replace(b"K\x05", b"K\x03") + after)
    assert code(path) == "CKM710"
    path.write_bytes(before + b"K\n" + view.replace(b"K\x05", b"K\x08") + after)
    assert code(path) == "CKM710"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_is_refused_or_carried(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", nn.Linear(1, 1))
    with pytest.raises(StorageError, match="Linear") as caught:
        read_legacy(path)
    assert caught.value.code == "CKM711"
    assert "model.state_dict()" in str(caught.value.fix)
    stored = read_legacy(path, ["torch.nn.modules.*"])
    assert isinstance(stored.tree, Object)
    assert str(stored.tree.factory) == "torch.nn.modules.linear.Linear"


def test_the_tar_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"\0" * 257 + b"ustar\x0000" + b"\0" * 300)
    assert is_torch_legacy(path.read_bytes())
    with pytest.raises(StorageError, match=r"torch 0\.1") as caught:
        read_legacy(path)
    assert caught.value.code == "CKM717"


def test_other_pickles_are_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for value in (b"", pickle.dumps({}), pickle.dumps(0x1950A86A20F9469CFC6C)[:-1] + b"0K\x01."):
        path.write_bytes(value)
        assert code(path) in ("CKM717", "CKM710")
    assert not is_torch_legacy(pickle.dumps({}))


def test_a_file_cut_off_or_longer_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "a.pt", {"a": torch.ones(9), "b": torch.ones(3)}).read_bytes()
    path = tmp_path / "b.pt"
    for length in {*range(0, len(data), 11), *range(len(data) - 30, len(data))}:
        path.write_bytes(data[:length])
        assert code(path) in ("CKM710", "CKM717")
    path.write_bytes(data + b"\0")
    assert code(path) == "CKM717"


def test_another_count_of_elements_is_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.pt", {"a": torch.ones(9)}).read_bytes())
    data[-36 - 8] = 8
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    with pytest.raises(StorageError, match="8 elements where 9"):
        read_legacy(path)


def test_flipped_bits_never_give_another_error(tmp_path: Path) -> None:
    data = save(tmp_path / "a.pt", {"a": torch.ones(2), "b": torch.ones(3)}).read_bytes()
    path = tmp_path / "b.pt"
    chosen = random.Random(3)
    for _ in range(300):
        flipped = bytearray(data)
        flipped[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        try:
            stored = read_legacy(path)
        except StorageError:
            continue
        sizes = [(r.offset, r.offset + r.nbytes) for r in stored.records.values()]
        assert all(0 <= begin <= end <= len(data) for begin, end in sizes)


def test_legacy_and_zip_give_the_same_tree(tmp_path: Path) -> None:
    saved = {"m": nn.Linear(2, 2).state_dict(), "p": nn.Parameter(torch.ones(1)), "n": [1, {2}]}
    torch.save(saved, tmp_path / "a.pt")
    legacy = read_legacy(save(tmp_path / "b.pt", saved))
    assert differences(legacy.tree, read_zip(tmp_path / "a.pt").tree) == []
