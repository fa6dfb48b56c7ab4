"""Zip archives: every way to be crooked is refused, and what is written is straight."""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.formats import torch_zip, zip_archive
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.zip_image import Member, zip_image
from ckmigrate.spec import DType, TensorSpec
from tests.torch_files import assemble, differences, node, read_zip, save, tensor_of
from tests.torch_files import refused_zip as code


def plain(tmp_path: Path) -> bytearray:
    return bytearray(save(tmp_path / "a.pt", {"w": torch.arange(100.0)}).read_bytes())


def repacked(tmp_path: Path, **change: Any) -> Path:
    """The same entries through Python's zipfile, which writes what it is told."""
    save(tmp_path / "a.pt", {"w": torch.arange(100.0)})
    path = tmp_path / "repacked.pt"
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), **change)
    return path


def test_an_archive_of_another_program_is_read_when_it_is_straight(tmp_path: Path) -> None:
    stored = read_zip(repacked(tmp_path))
    assert tensor_of(stored, node(stored, "w")).tolist() == list(range(100))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    assert code(repacked(tmp_path, compress_type=zipfile.ZIP_DEFLATED)) == "CKM715"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a/data.pkl", "a/DATA.pkl", "a/data/0"])
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.arange(100.0)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x" * 400)
    assert code(path) == "CKM715"


@pytest.mark.parametrize(
    "name", ["b/data.pkl", "loose", "a/../x", "a/b\\c", "/a/x", "a//x", "a/\n"]
)
def test_a_name_that_is_no_plain_path_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.arange(100.0)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    assert code(path) == "CKM715"


def test_other_records_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.arange(100.0)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("a/notes")
        archive.writestr("a/notes/x.txt", b"x")
        archive.writestr("a/data/7", b"x")
    details = read_zip(path).details
    assert details["other records"] == "notes/x.txt"
    assert details["unused storages"] == "1"


def central(data: bytearray, name: bytes) -> int:
    """Where the line of the directory for an entry begins."""
    return data.rindex(name, 0, len(data)) - 46


def test_a_second_name_in_an_extra_field_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.arange(100.0)})
    entry = zipfile.ZipInfo("a/notes")
    entry.extra = struct.pack("<HHBI", 0x7075, 9, 1, 0) + b"data"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, b"x")
    assert code(path) == "CKM715"


def test_entries_over_each_other_are_refused(tmp_path: Path) -> None:
    data = plain(tmp_path)
    first, second = (central(data, b"a/" + name) for name in (b"byteorder", b"data/0"))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    assert code(path) == "CKM715"


def test_an_entry_inside_the_bytes_of_another_is_refused(tmp_path: Path) -> None:
    parts = {"data.pkl": b"\x80\x02}.", "data/0": b"\0" * 400, "data/1": b"inner"}
    members = [Member(f"m/{name}", len(raw), raw) for name, raw in parts.items()]
    data = bytearray(assemble(zip_image(members), {}))
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    outer, inner = (read_archive(path, f"data/{i}") for i in (0, 1))
    begin = data.rindex(b"PK\x03\x04")
    data[outer : outer + inner + 5 - begin] = data[begin : inner + 5]
    struct.pack_into("<I", data, central(data, b"m/data/1") + 42, outer)
    path.write_bytes(data)
    with pytest.raises(StorageError, match="lie over each other"):
        read_zip(path)


def read_archive(path: Path, name: str) -> int:
    """Where the bytes of an entry begin."""
    with path.open("rb") as file:
        found = zip_archive.read_archive(file.fileno(), path.stat().st_size, where="")
    return found.entries[name].offset


def test_bytes_between_the_directory_and_its_end_are_refused(tmp_path: Path) -> None:
    data = repacked(tmp_path).read_bytes()
    path = tmp_path / "b.pt"
    for changed in (data[:-22] + b"x" + data[-22:], b"x" + data, data + b"x"):
        path.write_bytes(changed)
        assert code(path) == "CKM715"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("<H8", 0x0809),  # encrypted
        ("<H10", 8),  # compressed
        ("<I16", 1),  # CRC
        ("<I20", 5),  # packed size
        ("<I24", 5),  # size
        ("<H34", 1),  # disk
        ("<I42", 0xFFFFFFF0),  # header beyond the end
        ("<I42", 7),  # header somewhere else
    ],
)
def test_a_line_of_the_directory_that_lies_is_refused(
    tmp_path: Path, field: str, value: int
) -> None:
    data = plain(tmp_path)
    struct.pack_into(field[:2], data, central(data, b"a/data/0") + int(field[2:]), value)
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    assert code(path) == "CKM715"


@pytest.mark.parametrize("offset", [26, 30, 4 + 2, 8, 18])
def test_a_header_at_the_data_that_lies_is_refused(tmp_path: Path, offset: int) -> None:
    data = plain(tmp_path)
    data[data.index(b"PK\x03\x04", 10) + offset] ^= 0x21
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    assert code(path) == "CKM715"


def test_a_damaged_pickle_is_told_by_its_checksum(tmp_path: Path) -> None:
    data = plain(tmp_path)
    data[data.index(b"FloatStorage")] ^= 1
    path = tmp_path / "b.pt"
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"data\.pkl' is damaged"):
        read_zip(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    data = bytes(plain(tmp_path))
    path = tmp_path / "cut.pt"
    for length in {*range(0, len(data), 37), *range(len(data) - 60, len(data))}:
        path.write_bytes(data[:length])
        assert code(path) == "CKM715"


def test_flipped_bits_never_give_anything_but_an_error_or_the_same_tree(tmp_path: Path) -> None:
    data = bytes(plain(tmp_path))
    path = tmp_path / "flipped.pt"
    whole = read_zip(tmp_path / "a.pt")
    chosen = random.Random(5)
    for _ in range(400):
        flipped = bytearray(data)
        flipped[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        try:
            read = read_zip(path)
        except StorageError:
            continue
        assert differences(read.tree, whole.tree) == []
        assert read.records == whole.records


def test_archives_beyond_four_gigabytes_are_read_back(tmp_path: Path) -> None:
    """Written sparse: only the headers take room on the disk."""
    large = Storage("large", DType.U8, 2**32 + 5)
    after = Storage("after", DType.F32, 8)
    tree = {
        "large": Tensor(large, TensorSpec(DType.U8, (2**32 + 5,)), 0, (1,)),
        "after": Tensor(after, TensorSpec(DType.F32, (2,)), 0, (1,)),
    }
    image = torch_zip.image(tree, tag=None)
    assert image.finish is not None
    path = tmp_path / "a.pt"
    with path.open("wb") as file:
        file.truncate(image.size)
        for offset, part in (*image.chunks, *image.finish({"large": 1, "after": 2})):
            file.seek(offset)
            file.write(part)
    stored = read_zip(path)
    assert [(r.nbytes, r.crc) for r in stored.records.values()] == [(2**32 + 5, 1), (8, 2)]
    assert stored.records["1"].offset == image.slots["after"].offset > 2**32
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/0").file_size == 2**32 + 5
        archive.open("archive/data/1").close()
    assert torch.load(path, mmap=True, weights_only=True)["after"].tolist() == [0.0, 0.0]
