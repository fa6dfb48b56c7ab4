"""What is not a checkpoint is called by its name; what is one opens whatever it is called."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute.undo_record import Saved, UndoRecord, encode
from ckmigrate.formats.base import FileIdentity
from ckmigrate.formats.open_checkpoint import open_checkpoint, open_regular

HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def safetensors_file(header: bytes = HEADER) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(4)


def refused(path: Path) -> StorageError:
    with pytest.raises(StorageError) as caught:
        open_checkpoint(path)
    assert caught.value.fix
    assert caught.value.where
    return caught.value


def npz() -> bytes:
    numpy = pytest.importorskip("numpy")
    buffer = io.BytesIO()
    numpy.savez(buffer, w=numpy.zeros(3))
    return buffer.getvalue()


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

FOREIGN = {
    "empty": (b"", "CKM709", "is empty", "Download or save"),
    "lfs": (LFS, "CKM709", "Git LFS pointer", 'git lfs pull --include "model.pt"'),
    "html": (b"<!DOCTYPE html>\n<html lang='en'>", "CKM709", "web page", "log in"),
    "html in capitals": (b"\n\n  <HTML><body>", "CKM709", "web page", "log in"),
    "xml": (b'<?xml version="1.0"?><Error>', "CKM709", "web page", "log in"),
    "zeros": (bytes(5000), "CKM709", "zero bytes", "again"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "CKM709", "empty zip", "again"),
    "gzip": (gzip.compress(b"x" * 100), "CKM708", "gzip", "Unpack"),
    "xz": (lzma.compress(b"x"), "CKM708", "xz", "Unpack"),
    "bzip2": (bz2.compress(b"x"), "CKM708", "bzip2", "Unpack"),
    "tar of torch 0.1": (tar("sys_info"), "CKM708", "torch 0.1", "old torch"),
    "tar": (tar("weights/model.pt"), "CKM708", "tar archive", "Unpack"),
    "npy": (b"\x93NUMPY\x01\0", "CKM708", ".npy", "numpy"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "CKM708", "HDF5", "Convert"),
    "onnx": (b"\x08\x07\x12\x07pytorch", "CKM708", "ONNX", "exported"),
    "gguf": (b"GGUF\x03\0\0\0", "CKM708", "GGUF", "PyTorch"),
    "tflite": (b"\x1c\0\0\0TFL3", "CKM708", "TensorFlow Lite", "PyTorch"),
    "pickle": (pickle.dumps({"w": [1.0]}), "CKM708", "plain pickle", "torch.save"),
    "index": (
        json.dumps({"metadata": {}, "weight_map": {"w": "a.safetensors"}}).encode(),
        "CKM708",
        "index of a sharded checkpoint",
        "the folder",
    ),
    "json": (b'{"hidden_size": 64}', "CKM708", "JSON", "beside"),
    "text": ("Größe: drei\n".encode(), "CKM708", "text file that begins with 'Größe", "checkpoint"),
    "noise": (b"\x01\x02\x03\x04\xff\xfe", "CKM708", "not a checkpoint", "complete"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_kind_of_file_is_called_by_its_name(tmp_path: Path, kind: str) -> None:
    content, code, what, fix = FOREIGN[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    error = refused(path)
    assert error.code == code
    assert what in error.what
    assert fix in str(error.fix)


def undo_record(target: str) -> bytes:
    saved = Saved("", FileIdentity(1, 2, 100, 3), 0o600, 0, 100, ((0, bytes(5000)),))
    return encode(UndoRecord(target, "base", (saved,)))


def test_an_undo_record_names_the_checkpoint_and_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.undo-base"
    path.write_bytes(undo_record("model.pt"))
    error = refused(path)
    assert error.code == "CKM708"
    assert "undo record of a change in place, which made model.pt what it is" in error.what
    assert str(error.fix).endswith(f"ckmigrate undo {tmp_path / 'model.pt'}")


@pytest.mark.parametrize("target", ["", "..", "../model.pt", "a\nb", "{x}", 'ü"\\'])
def test_an_undo_record_names_nothing_but_a_file_beside_it(tmp_path: Path, target: str) -> None:
    path = tmp_path / "model.pt.undo-base"
    path.write_bytes(undo_record(target))
    error = refused(path)
    assert "undo record" in error.what
    is_name = target in ("{x}", 'ü"\\')
    assert str(error.fix).endswith(f"ckmigrate undo '{tmp_path / target}'") == is_name


@pytest.mark.parametrize("rest", [b"", b"1\n", b'1\n12345678{"target":"\xff"', b"1\n12345678{}"])
def test_an_undo_record_that_is_damaged_is_still_called_one(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "model.pt.undo-base"
    path.write_bytes(b"ckmigrate undo " + rest)
    error = refused(path)
    assert error.what.endswith("is the undo record of a change in place")
    assert error.fix == "Give the checkpoint that it lies beside."


def test_an_archive_of_numpy_arrays_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(npz())
    assert ".npz" in refused(path).what


def test_a_pointer_in_a_name_with_braces_does_not_break_the_message(tmp_path: Path) -> None:
    path = tmp_path / "{0}{x}.pt"
    path.write_bytes(LFS)
    assert "{0}{x}.pt" in str(refused(path).fix)


def test_safetensors_opens_under_any_name_and_through_links(tmp_path: Path) -> None:
    path = tmp_path / "blobs" / "1f8b"
    path.parent.mkdir()
    path.write_bytes(safetensors_file())
    link = tmp_path / "model.pt"
    link.symlink_to(path)
    stored = open_checkpoint(link)
    assert (stored.format, stored.path) == ("safetensors", link)
    assert stored.identity.inode == path.stat().st_ino


def test_a_header_length_that_looks_like_gzip_is_still_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file(HEADER.ljust(0x8B1F)))
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert open_checkpoint(path).format == "safetensors"


def test_a_truncated_file_is_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file()[:20])
    assert "truncated" in refused(path).what


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits-v1.0.pt").touch()
    (tmp_path / "unrelated").touch()
    error = refused(tmp_path / "digits-v10.pt")
    assert error.code == "CKM706"
    assert error.fix == "Did you mean digits-v1.0.pt?"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "no" / "model.pt")
    assert (error.code, str(tmp_path / "no") in str(error.why)) == ("CKM706", True)
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "model.pt").code == "CKM706"


def test_a_broken_link_says_where_it_leads(tmp_path: Path) -> None:
    link = tmp_path / "model.pt"
    link.symlink_to("blobs/missing")
    error = refused(link)
    assert (error.code, "blobs/missing" in str(error.why)) == ("CKM706", True)


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert refused(tmp_path / "a").code in ("CKM706", "CKM707")


def test_a_folder_names_the_checkpoints_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model-00001.safetensors").touch()
    error = refused(tmp_path)
    assert error.code == "CKM707"
    assert str(tmp_path / "model-00001.safetensors") in str(error.fix)
    assert "config.json" not in str(error.fix)


def test_pipes_sockets_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo").code == "CKM707"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert refused(tmp_path / "socket").code == "CKM707"
    assert refused(Path("/dev/zero")).code == "CKM707"


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "a\0b").code == "CKM707"
    assert refused(tmp_path / ("x" * 300)).code == "CKM707"


@pytest.mark.parametrize("number", [13, 5])
def test_a_refusal_of_the_system_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "model.pt"
    path.touch()

    def deny(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", deny)
    error = refused(path)
    assert error.code == "CKM707"
    assert os.strerror(number) in error.what


def test_a_disk_error_on_the_first_read_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"x")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    assert refused(path).code == "CKM707"


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(LFS)
    before = len(os.listdir("/proc/self/fd"))
    for target in (path, tmp_path, tmp_path / "missing"):
        with pytest.raises(StorageError):
            open_checkpoint(target)
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_regular_gives_a_descriptor_that_only_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"abc")
    fd = open_regular(path)
    assert os.pread(fd, 9, 0) == b"abc"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_save_open_under_any_name(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.safetensors"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    stored = open_checkpoint(path)
    assert stored.format == "torch"
    assert isinstance(stored.tree, dict)
    assert [record.nbytes for record in stored.records.values()] == [12]


def test_a_file_that_is_a_zip_but_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert refused(path).code.startswith("CKM7")
