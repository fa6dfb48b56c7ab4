"""What a file is that is no checkpoint: told from its first bytes, with what to do about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["PICKLE", "PICKLE_START", "Foreign", "foreign"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file that is not a checkpoint.

    kind   "a gzip archive", as a sentence continues "NAME is …"
    fix    the next step; {name} stands for the file's name, {about} for the path of `about`
    lost   whether the checkpoint itself never arrived, as after a failed download
    about  the name of the checkpoint beside it that it belongs to
    """

    kind: str
    fix: str
    lost: bool = False
    about: str | None = None


_UNPACK: Final = "Unpack it and give the checkpoint inside."
_ARRAYS: Final = "Load it with numpy and save the arrays with safetensors.numpy.save_file."
_DOWNLOAD: Final = "Download the checkpoint again."

PICKLE_START: Final = b"\x80"

# Of a file that begins so, the reader of torch's old format may know better.
PICKLE: Final = Foreign(
    "a plain pickle, not a file of torch.save",
    "Load it where you trust it, and save it with torch.save.",
)

_BY_START: Final[tuple[tuple[bytes, Foreign], ...]] = (
    (
        b"version https://git-lfs.github.com/spec/",
        Foreign(
            "a Git LFS pointer, not the file that it points to",
            'Fetch the file: git lfs pull --include "{name}"',
            lost=True,
        ),
    ),
    (b"\x1f\x8b", Foreign("a gzip archive", _UNPACK)),
    (b"\xfd7zXZ\0", Foreign("an xz archive", _UNPACK)),
    (b"BZh", Foreign("a bzip2 archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Foreign("a zstd archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK)),
    (b"PK\x05\x06", Foreign("an empty zip archive", _DOWNLOAD, lost=True)),
    (b"\x93NUMPY", Foreign("a numpy array (.npy)", _ARRAYS)),
    (
        b"\x89HDF\r\n\x1a\n",
        Foreign(
            "an HDF5 file, such as Keras writes",
            "Convert it to a PyTorch checkpoint with the library that wrote it.",
        ),
    ),
    (
        b"GGUF",
        Foreign(
            "a GGUF file, such as llama.cpp reads",
            "Give the PyTorch checkpoint that it was converted from.",
        ),
    ),
)
_UNDO: Final = b"ckmigrate undo "
_UNDO_TARGET: Final = re.compile(
    rb'ckmigrate undo [0-9]+\n.{8}\{"target":("(?:[^"\\]|\\.)*")', re.DOTALL
)
_MARKUP: Final = re.compile(rb"\s*<(!doctype\s+html|html|head|body|\?xml|error)\b", re.IGNORECASE)
# A protobuf whose first field is ir_version and whose next one is among a model's first fields.
_ONNX: Final = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
_TORCH_TAR: Final = (b"sys_info", b"pickle", b"tensors", b"storages")
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")
_TEXT: Final = re.compile(r"[^\x00-\x08\x0e-\x1a\x1c-\x1f\x7f�]*")


def foreign(head: bytes) -> Foreign | None:
    """What a file that begins with `head` (the first 4096 bytes, or all of it) is instead of a
    checkpoint; None where it is nothing that is known."""
    if not head:
        return Foreign("empty", "Download or save the checkpoint again.", lost=True)
    for start, kind in _BY_START:
        if head.startswith(start):
            return kind
    if head.startswith(_UNDO):
        return _undo_record(head)
    if head[:4] == b"PK\x03\x04":
        return _zip(head)
    if head[257:262] == b"ustar":
        return _tar(head)
    if head[4:8] == b"TFL3":
        return Foreign("a TensorFlow Lite model", "Give a PyTorch checkpoint.")
    if _ONNX.match(head):
        return Foreign("an ONNX model", "Give the PyTorch checkpoint that it was exported from.")
    if _PICKLE.match(head):
        return PICKLE
    if not head.strip(b"\0"):
        return Foreign("filled with zero bytes, like an unfinished download", _DOWNLOAD, lost=True)
    return _text(head)


def _undo_record(head: bytes) -> Foreign:
    """What `ckmigrate.execute.undo_record` writes: how a change in place is taken back."""
    kind, target = "the undo record of a change in place", _undone(head)
    if target is None:
        return Foreign(kind, "Give the checkpoint that it lies beside.")
    return Foreign(
        f"{kind}, which made {target} what it is",
        "Give that checkpoint; to take the change back: ckmigrate undo {about}",
        about=target,
    )


def _undone(head: bytes) -> str | None:
    """The file name that an undo record is about; None where it tells none."""
    found = _UNDO_TARGET.match(head)
    try:
        name = str(json.loads(found[1])) if found else ""
    except ValueError:
        return None
    is_name = name.isprintable() and "/" not in name and name not in ("", ".", "..")
    return name if is_name else None


def _tar(head: bytes) -> Foreign:
    if head[:100].rstrip(b"\0") in _TORCH_TAR:
        again = "Load it with an old torch, such as 1.13, and save it again."
        return Foreign("a tar archive as torch 0.1 wrote it", again)
    return Foreign("a tar archive", _UNPACK)


def _zip(head: bytes) -> Foreign | None:
    """A zip of arrays; any other zip is for the reader of torch files to judge."""
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return Foreign("a numpy archive (.npz)", _ARRAYS) if first.endswith(b".npy") else None


def _text(head: bytes) -> Foreign | None:
    if _MARKUP.match(head):
        return Foreign(
            "a web page or an XML answer, not the file behind it",
            "Download the file itself: check the address, and whether you must log in.",
            lost=True,
        )
    # The end may be in the middle of a character.
    text = head.decode("utf-8", "replace").rstrip("�")
    if not _TEXT.fullmatch(text):
        return None
    if text.lstrip()[:1] not in ("{", "["):
        return Foreign(f"a text file that begins with {text.strip()[:40]!r}", "Give a checkpoint.")
    if '"weight_map"' in text:
        return Foreign(
            "the index of a sharded checkpoint",
            "Give the folder that it is in, or name it *.index.json.",
        )
    return Foreign("a JSON file", "Give the checkpoint that lies beside it.")
