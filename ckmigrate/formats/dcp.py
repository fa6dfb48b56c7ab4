"""Torch distributed checkpoints (DCP): a folder as `torch.distributed.checkpoint.save` writes it.

    .metadata           which tensors there are, of which chunks they consist, and where those are
    __0_0.distcp, …     what each rank wrote: files of torch.save, one after the other
    ckmigrate.json      our tag; or a key of the state dict, as of torch files

A tensor that several ranks held parts of is several chunks. Where these are rows, their bytes one
after the other are the tensor's, and are copied so; other tilings are put together. Chunks must
tile their tensor exactly. What is no tensor is read into the inert tree like any torch file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Folder, Stored, StoredFile
from ckmigrate.formats.chunk_reader import misplaced, reading_chunks
from ckmigrate.formats.dcp_metadata import (
    DcpMetadata,
    Item,
    Place,
    TensorItem,
    parse_metadata,
)
from ckmigrate.formats.dcp_tag import read_tag
from ckmigrate.formats.dcp_tree import nested
from ckmigrate.formats.folder_listing import Listing, list_folder
from ckmigrate.formats.folder_names import METADATA, TAG_FILE
from ckmigrate.formats.torch_tag import take_tag
from ckmigrate.names.order import natural_key

__all__ = ["read_dcp"]

_OF_A_RANK: Final = re.compile(r"__[0-9]+\.metadata")


def read_dcp(
    path: Path,
    open_file: Callable[[Path], int],
    read_text: Callable[[Path], bytes],
    carry: Sequence[str],
    before: Stored | None = None,
) -> Stored:
    """Read the folder `path`, or the folder of the .metadata `path`, but for its tensor bytes.

    open_file  a descriptor of a regular file; what it raises passes
    read_text  all bytes of a small file
    carry      classes that what is no tensor may name
    before     a checkpoint that was read before: chunks in files that are still the same are taken
               from there

    Raises StorageError: CKM710 to CKM715 by the pickles and archives in it; CKM765 more than one
    checkpoint; CKM780, CKM781, CKM785 `.metadata`; CKM782 files are missing; CKM783 chunks do not
    tile their tensor; CKM784 a chunk is not what `.metadata` says; CKM786 and CKM716 the tag.
    """
    root = path.parent if path.name == METADATA else path
    raw = read_text(root / METADATA)
    metadata = parse_metadata(raw, where=str(root / METADATA))
    listing = list_folder(root)
    _require_alone(root, listing, named=path is not root)
    shards = tuple(sorted(metadata.files, key=natural_key))
    _require_present(root, shards, listing)
    _require_apart(metadata, where=str(root / METADATA))
    with reading_chunks(root, shards, listing.files, open_file, carry, before) as reader:
        leaves = {metadata.paths[n]: reader.read(n, item) for n, item in metadata.items.items()}
    has_tag = TAG_FILE in listing.files
    written = _tag(root, raw, read_text) if has_tag else None
    tree, tag = take_tag(nested(leaves, where=str(root / METADATA)), written, where=str(root))
    details = {"container": "folder of chunks", "data files": str(len(shards))}
    if has_tag and written is None:
        details["tag"] = "of an older .metadata, not counted"
    rest = tuple(name for name in listing.files if name not in (*shards, METADATA))
    others = tuple(name for name in rest if name != TAG_FILE)
    return Stored(
        path=root,
        format="dcp",
        identity=listing.files[METADATA],
        tree=tree,
        records=reader.records,
        tag=tag,
        details=details,
        folder=Folder("torch", shards, METADATA, (), None, others, listing.empty, listing.odd),
        parts=tuple(
            StoredFile(root / name, listing.files[name]) for name in (*shards, METADATA, *rest)
        ),
        dcp=metadata,
        chunks=reader.tensors,
    )


def _tag(root: Path, raw: bytes, read_text: Callable[[Path], bytes]) -> str | None:
    return read_tag(read_text(root / TAG_FILE), raw, where=str(root / TAG_FILE))


def _require_alone(root: Path, listing: Listing, *, named: bool) -> None:
    """CKM765 where an index of shards, or the .metadata of a single rank, is there too."""
    others = [
        name
        for name in listing.files
        if _OF_A_RANK.fullmatch(name) or (name.endswith(".index.json") and not named)
    ]
    if others:
        raise StorageError(
            "CKM765",
            f"{root.name or root} holds several checkpoints",
            where=str(root),
            details=(METADATA, *others[:10]),
            why="Which of them is meant cannot be told, and changing one would leave the others "
            "wrong.",
            fix=f"Move the others out of the folder, or name the one: {root / METADATA}",
        )


def _require_present(root: Path, shards: Sequence[str], listing: Listing) -> None:
    missing = [name for name in shards if name not in listing.files]
    if missing:
        more = (f"… {len(missing) - 20} more",) if len(missing) > 20 else ()
        raise StorageError(
            "CKM782",
            f"{len(missing)} of {len(shards)} data files are missing",
            where=str(root / METADATA),
            details=(*missing[:20], *more),
            why=".metadata names them, and they are no files of its folder.",
            fix="Copy the rest of the checkpoint: every rank wrote a file of its own.",
        )


def _require_apart(metadata: DcpMetadata, *, where: str) -> None:
    """CKM784 where two places overlap; only whole tensors may be at the places of another."""
    owners: dict[Place, str] = {}
    for name, item in metadata.items.items():
        distinct = set(item.places)
        for place in distinct:
            first = metadata.items[owners.setdefault(place, name)]
            if first is not item and not _are_tied(first, item):
                raise _over_each_other(owners[place], name, where)
        if len(distinct) < len(item.places):
            raise _over_each_other(name, name, where)
    ordered = sorted(owners, key=lambda place: (place.file, place.offset, place.nbytes))
    for one, other in pairwise(ordered):
        if one.file == other.file and one.offset + one.nbytes > other.offset:
            raise _over_each_other(owners[one], owners[other], where)


def _are_tied(one: Item, other: Item) -> bool:
    if isinstance(one, TensorItem) and isinstance(other, TensorItem):
        return (one.spec, one.chunks) == (other.spec, other.chunks)
    return False


def _over_each_other(one: str, other: str, where: str) -> StorageError:
    why = "Every entry has a place of its own. Chunks that were serialised as safetensors look so "
    why += "too, and are not read."
    return misplaced(f"the data of '{one}' and of '{other}' lie over each other", where, why)
