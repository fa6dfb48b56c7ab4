"""The reader refuses what is not exactly safetensors; the files of the writer load anywhere."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import FileImage, Stored
from ckmigrate.formats.safetensors import image, is_safetensors, read
from ckmigrate.formats.tree import Tensor
from ckmigrate.spec import DType, TensorSpec

DTYPES = [dtype for dtype in DType if dtype is not DType.C128]
F32 = DType.F32


def encode(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Sequence[object], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def read_bytes(folder: Path, content: bytes) -> Stored:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read(path, fd, os.fstat(fd))
    finally:
        os.close(fd)


def refused(folder: Path, content: bytes) -> StorageError:
    with pytest.raises(StorageError) as caught:
        read_bytes(folder, content)
    assert caught.value.where == str(folder / "model.safetensors")
    assert caught.value.fix
    return caught.value


def render(picture: FileImage, data: Mapping[str, bytes]) -> bytes:
    content = bytearray(b"\xee" * picture.size)
    for offset, chunk in picture.chunks:
        content[offset : offset + len(chunk)] = chunk
    for name, slot in picture.slots.items():
        assert len(data[name]) == slot.nbytes
        content[slot.offset : slot.offset + slot.nbytes] = data[name]
    return bytes(content)


def specs(stored: Stored) -> dict[str, TensorSpec]:
    assert isinstance(stored.tree, dict)
    found = {}
    for name, tensor in stored.tree.items():
        assert isinstance(tensor, Tensor)
        found[name] = tensor.spec
    return found


# Reading


def test_read_gives_tensors_records_metadata_and_tag(tmp_path: Path) -> None:
    header = {
        "b": entry([2, 3], 4, 28),
        "__metadata__": {"format": "pt", "ckmigrate": '{"revision": "7c1e9a04f2"}'},
        "a": entry([], 0, 4),
    }
    stored = read_bytes(tmp_path, encode(header, bytes(28)))
    assert stored.format == "safetensors"
    assert stored.metadata == {"format": "pt"}
    assert stored.tag == '{"revision": "7c1e9a04f2"}'
    assert list(specs(stored).items()) == [
        ("a", TensorSpec(F32, ())),
        ("b", TensorSpec(F32, (2, 3))),
    ]
    assert isinstance(stored.tree, dict)
    tensor = stored.tree["b"]
    assert (tensor.strides, tensor.storage.key, tensor.storage.nbytes) == ((3, 1), "b", 24)
    start = 8 + len(json.dumps(header))
    assert (stored.records["b"].offset, stored.records["b"].nbytes) == (start + 4, 24)
    assert stored.details["data offset"] == str(start)


def test_read_knows_a_name_that_the_metadata_ties_to_a_stored_one(tmp_path: Path) -> None:
    pairs = {"format": "pt", "b": "a", "a": "c", "c": "b", "ckmigrate": "a"}
    header = {"a": entry([], 0, 4), "__metadata__": pairs}
    stored = read_bytes(tmp_path, encode(header, bytes(4)))
    assert list(specs(stored)) == ["a", "b"]
    assert isinstance(stored.tree, dict)
    assert stored.tree["b"] == stored.tree["a"]
    assert stored.metadata == {"format": "pt", "a": "c", "c": "b"}
    assert stored.details["tied names left out"] == "1"


def test_read_accepts_a_file_without_tensors(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, encode({})).tree == {}


def test_read_orders_tensors_by_their_data_not_by_the_header(tmp_path: Path) -> None:
    header = {"a": entry([1], 4, 8), "empty": entry([0], 4, 4), "z": entry([1], 0, 4)}
    assert list(specs(read_bytes(tmp_path, encode(header, bytes(8))))) == ["z", "empty", "a"]


@pytest.mark.parametrize("cut", [0, 4, 7, 8, 9, 60, 100])
def test_read_calls_a_truncated_file_truncated(tmp_path: Path, cut: int) -> None:
    error = refused(tmp_path, encode({"layer.weight": entry([8], 0, 32)}, bytes(32))[:cut])
    assert error.code == "CKM700"
    assert "truncated" in error.what


def test_read_refuses_a_header_beyond_the_limit_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(100_000_100)
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(StorageError, match="100000001"):
        read(path, fd, os.fstat(fd))
    os.close(fd)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{{", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' + b"[" * 50_000, "not JSON"),
        (b'{"\xff": 1}', "UTF-8"),
        (b'{"\\ud800": 1}', "invalid key"),
        (b' {"a": 1}', "begin with"),
        (b"[]", "begin with"),
        (b'{"a.w": {}, "a.w": {}}', "'a.w' twice"),
        (b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', "'dtype' twice"),
        (b'{"__metadata__":{"k":"1","k":"2"}}', "'k' twice"),
    ],
)
def test_read_refuses_a_header_that_is_not_plain_json(
    tmp_path: Path, header: bytes, words: str
) -> None:
    error = refused(tmp_path, encode(header, bytes(4)))
    assert error.code == "CKM701"
    assert words in error.what


@pytest.mark.parametrize("metadata", [{"step": 3}, [], None, {"a": {"b": "c"}}, {"a": None}])
def test_read_refuses_metadata_that_is_not_strings(tmp_path: Path, metadata: object) -> None:
    assert refused(tmp_path, encode({"__metadata__": metadata})).code == "CKM702"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (7, "not a dtype, a shape"),
        ({"dtype": "F32", "shape": [1]}, "not a dtype, a shape"),
        ({**entry([1], 0, 4), "device": "cpu"}, "not a dtype, a shape"),
        (entry([1], 0, 4, "C128"), "unknown dtype 'C128'"),
        (entry([1], 0, 4, "float32"), "unknown dtype"),
        ({**entry([1], 0, 4), "dtype": ["F32"]}, "unknown dtype"),
        (entry([True], 0, 4), "not a list of sizes"),
        (entry([1.0], 0, 4), "not a list of sizes"),
        (entry([-1], 0, 4), "not a list of sizes"),
        (entry([2**63], 0, 4), "not a list of sizes"),
        ({**entry([1], 0, 4), "shape": 1}, "not a list of sizes"),
        (entry([2**62, 4], 0, 4), "impossibly large"),
        (entry([2**62, 2**62, 0], 0, 0), "impossibly large"),
        (entry([0, 2**62, 2**62], 0, 0), "impossibly large"),
        (entry([3], 0, 2, "F4"), "whole byte"),
        (entry([2], 0, 2, "F6_E2M3"), "whole byte"),
    ],
)
def test_read_refuses_a_tensor_that_is_described_wrongly(
    tmp_path: Path, fields: object, words: str
) -> None:
    error = refused(tmp_path, encode({"head.weight": fields}, bytes(4)))
    assert error.code == "CKM703"
    assert words in error.what
    assert "'head.weight'" in error.what


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": {**entry([1], 0, 4), "data_offsets": [0]}}, "not a begin and an end"),
        ({"a": {**entry([1], 0, 4), "data_offsets": [4, 0]}}, "not a begin and an end"),
        ({"a": {**entry([1], 0, 4), "data_offsets": [False, 4]}}, "not a begin and an end"),
        ({"a": entry([1], 0, 8)}, "has 8 bytes"),
        ({"a": entry([0], 0, 8)}, "has 8 bytes"),
        ({"a": entry([1], 4, 8)}, "leaves a hole after the header"),
        ({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, "overlaps tensor 'a'"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, "overlaps tensor 'a'"),
        ({"a": entry([1], 0, 4)}, "4 bytes at the end"),
        ({}, "8 bytes at the end"),
    ],
)
def test_read_refuses_data_that_is_not_covered_exactly(
    tmp_path: Path, header: dict[str, object], words: str
) -> None:
    error = refused(tmp_path, encode(header, bytes(8)))
    assert error.code == "CKM704"
    assert words in error.what


def test_read_reports_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    assert refused(tmp_path, encode({})).code == "CKM707"


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(min_size=0, max_size=3),
    st.integers(0, 200),
    st.integers(0, 3),
)
def test_what_read_accepts_the_reference_accepts(
    tmp_path: Path, patch: bytes, position: int, removed: int
) -> None:
    reference = pytest.importorskip("safetensors")
    header = {"__metadata__": {"k": "v"}, "a": entry([2, 1], 0, 8), "b": entry([4], 8, 10, "F4")}
    whole = encode(header, bytes(10))
    content = whole[:position] + patch + whole[position + removed :]
    try:
        read_bytes(tmp_path, content)
    except StorageError:
        return
    assert len(reference.deserialize(content)) == 2


@pytest.mark.parametrize("content", [b"version {", b"PK\x03\x04....{", b"", b'{"a": 1}{'])
def test_is_safetensors_refuses_text_and_zip(content: bytes) -> None:
    assert not is_safetensors(content, 1000)


def test_is_safetensors_accepts_the_smallest_file_and_a_truncated_one() -> None:
    assert is_safetensors(encode({}), 10)
    assert is_safetensors(struct.pack("<Q", 5000) + b'{"a"', 500)


# Writing


def test_image_keeps_the_phase_and_leaves_room() -> None:
    for phase in (0, 8, 1000, 4088, 4096, 5000):
        picture = image([("w", TensorSpec(F32, (3,)))], metadata={}, tag=None, phase=phase)
        start = picture.slots["w"].offset
        assert start % 4096 == phase % 4096
        assert picture.chunks[0][1].endswith(b" " * 512)
        assert picture.size == start + 12


def test_image_leaves_no_less_and_hardly_more_room_than_promised() -> None:
    tensors = [("w", TensorSpec(F32, (3,)))]
    headers = [
        image(tensors, metadata={}, tag=None, phase=p).chunks[0][1] for p in range(0, 4096, 8)
    ]
    rooms = [len(header) - len(header.rstrip(b" ")) for header in headers]
    assert 512 <= min(rooms) < 520
    assert max(rooms) < 512 + 4096


def test_image_rounds_a_phase_that_would_break_alignment() -> None:
    picture = image([("w", TensorSpec(F32, (3,)))], metadata={}, tag=None, phase=4003)
    assert picture.slots["w"].offset % 4096 == 4000


def test_image_puts_wide_elements_first_and_keeps_the_given_order_among_equals() -> None:
    tensors = [
        ("mask", TensorSpec(DType.BOOL, (3,))),
        ("layers.2.w", TensorSpec(F32, (1,))),
        ("layers.10.w", TensorSpec(F32, (1,))),
        ("step", TensorSpec(DType.I64, ())),
    ]
    slots = image(tensors, metadata={}, tag=None).slots
    assert list(slots) == ["step", "layers.2.w", "layers.10.w", "mask"]


def test_image_keeps_a_requested_order_while_it_is_aligned() -> None:
    tensors = [("a", TensorSpec(DType.U8, (4,))), ("b", TensorSpec(F32, (1,)))]
    assert list(image(tensors, metadata={}, tag=None, order=["a", "b"]).slots) == ["a", "b"]
    tensors[0] = ("a", TensorSpec(DType.U8, (3,)))
    assert list(image(tensors, metadata={}, tag=None, order=["a", "b"]).slots) == ["b", "a"]


def test_image_is_the_same_for_metadata_in_any_order() -> None:
    tensors = [("a", TensorSpec(F32, (1,)))]
    first = image(tensors, metadata={"x": "1", "y": "2"}, tag="{}")
    second = image(tensors, metadata={"y": "2", "x": "1"}, tag="{}")
    assert first.chunks == second.chunks


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ([("a", TensorSpec(F32, (1,)))] * 2, {}),
        ([("__metadata__", TensorSpec(F32, (1,)))], {}),
        ([("\ud800", TensorSpec(F32, (1,)))], {}),
        ([("a", TensorSpec(DType.C128, (1,)))], {}),
        ([("a", TensorSpec(DType.F4, (3,)))], {}),
        ([], {"ckmigrate": "x"}),
        ([], {"k": "\udfff"}),
    ],
)
def test_image_refuses_what_the_format_cannot_hold(
    tensors: list[tuple[str, TensorSpec]], metadata: dict[str, str]
) -> None:
    with pytest.raises(StorageError) as caught:
        image(tensors, metadata=metadata, tag=None)
    assert caught.value.code == "CKM705"


def test_image_refuses_a_header_beyond_the_limit() -> None:
    with pytest.raises(StorageError, match="100000000"):
        image([], metadata={"k": "x" * 100_000_000}, tag=None)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
tensor_specs = st.builds(
    lambda dtype, shape: TensorSpec(dtype, (*shape, 8)), st.sampled_from(DTYPES), shapes
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(names, tensor_specs, max_size=6),
    st.dictionaries(names.filter(lambda key: key != "ckmigrate"), names, max_size=3),
    st.none() | names,
    st.integers(0, 4095),
)
def test_what_image_describes_reads_back_the_same(
    tmp_path: Path,
    tensors: dict[str, TensorSpec],
    metadata: dict[str, str],
    tag: str | None,
    phase: int,
) -> None:
    # A text that is the name of a tensor would tie its key to it.
    assume(not tensors.keys() & metadata.values())
    picture = image(list(tensors.items()), metadata=metadata, tag=tag, phase=phase)
    data = {name: os.urandom(spec.nbytes) for name, spec in tensors.items()}
    content = render(picture, data)
    stored = read_bytes(tmp_path, content)
    assert (specs(stored), stored.metadata, stored.tag) == (tensors, metadata, tag)
    for name, record in stored.records.items():
        assert content[record.offset : record.offset + record.nbytes] == data[name]
    reference = pytest.importorskip("safetensors")
    loaded = {name: bytes(fields["data"]) for name, fields in reference.deserialize(content)}
    assert loaded == data


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.code)
def test_written_files_load_with_the_safetensors_library(tmp_path: Path, dtype: DType) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    if dtype.torch_name is None or not hasattr(torch, dtype.torch_name):
        pytest.skip(f"torch has no {dtype}")
    tensors = [("first", TensorSpec(DType.U8, (3,))), ("x", TensorSpec(dtype, (2, 4)))]
    picture = image(tensors, metadata={"format": "pt"}, tag='{"revision": "1"}')
    values = bytes(i % 2 for i in range(tensors[1][1].nbytes))
    path = tmp_path / "x.safetensors"
    path.write_bytes(render(picture, {"first": b"abc", "x": values}))
    try:
        loaded = library.load_file(path)["x"]
    except (AttributeError, KeyError, library.SafetensorError) as error:
        pytest.skip(f"the installed safetensors cannot load {dtype}: {error}")
    assert loaded.dtype == getattr(torch, dtype.torch_name)
    assert bytes(loaded.view(torch.uint8).flatten().tolist()) == values
    with library.safe_open(path, framework="pt") as file:
        assert file.metadata()["ckmigrate"] == '{"revision": "1"}'
        assert bytes(file.get_tensor("first").tolist()) == b"abc"
