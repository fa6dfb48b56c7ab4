"""A folder of weights: shards with an index, or one file of weights, and everything beside them.

    model.safetensors.index.json        names the shard of every tensor
    model-00001-of-00002.safetensors    a shard; *.bin for shards in torch's format
    config.json                         reachable as `ck.meta["config.…"]`
    optimizer.pt, optimizer.bin         training state (`ckmigrate.formats.companions`)
    tokenizer.json, README.md, …        carried along as they are

The index and the shards must say the same: a tensor that only one of them knows, a tensor that two
shards have, or a shard that is not there, is an error. A name in the index is a file name and leads
nowhere else; the file itself may be a symbolic link, as in the caches of model hubs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Container, Folder, Record, Stored, StoredFile
from ckmigrate.formats.companions import ReadPart, read_companions
from ckmigrate.formats.folder_listing import list_folder
from ckmigrate.formats.folder_names import (
    CONFIG,
    DATA_SUFFIX,
    INDEX_SUFFIX,
    JSON_ROOTS,
    METADATA,
    WEIGHTS,
    is_index_name,
)
from ckmigrate.formats.safetensors import TIED
from ckmigrate.formats.shard_index import Index, json_object, parse_index
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.tree_paths import entries_of
from ckmigrate.names.order import natural_key

__all__ = ["read_folder"]

ReadFile = Callable[[Path], Stored]
ReadText = Callable[[Path], bytes]


def read_folder(
    path: Path, read_file: ReadFile, read_text: ReadText, read_part: ReadPart
) -> Stored:
    """Read the folder `path`, or the folder of the index `path`, but for its tensor bytes.

    read_file   reads one file of weights; what it raises passes
    read_text   all bytes of a small file
    read_part   reads one file of training state; what it raises is kept as its fault

    Raises StorageError CKM707 (no weights in it), CKM761 and CKM762 (index), CKM763 (shards are
    missing), CKM764 (index and shards disagree), CKM765 (several checkpoints in it), CKM766 (a
    shard that holds more than tensors), CKM767 (metadata disagree), CKM768 (config.json).
    """
    if is_index_name(path.name):
        root, index_name = path.parent, path.name
    else:
        root, index_name = path, None
        found = _choose(path)
        index_name = found if is_index_name(found) else None
    if index_name is None:
        return _read(_Parts(root, None, None, (found,)), read_file, read_text, read_part)
    index = parse_index(read_text(root / index_name), where=str(root / index_name))
    shards = tuple(sorted(set(index.weight_map.values()), key=natural_key))
    _require_present(root, index_name, shards)
    return _read(_Parts(root, index_name, index, shards), read_file, read_text, read_part)


@dataclass(frozen=True, slots=True)
class _Parts:
    root: Path
    index_name: str | None
    index: Index | None
    shards: tuple[str, ...]

    @property
    def where(self) -> str:
        return str(self.root / self.index_name if self.index_name else self.root)


def _read(parts: _Parts, read_file: ReadFile, read_text: ReadText, read_part: ReadPart) -> Stored:
    shards = [_readable(read_file(parts.root / name)) for name in parts.shards]
    container = _container(parts, shards)
    tensors, records = _joined(parts, shards)
    tag, fault = _tag(parts, shards)
    listing = list_folder(parts.root)
    config = read_text(parts.root / CONFIG) if CONFIG in listing.files else None
    beside = [parts.index_name] if parts.index_name else []
    others = tuple(name for name in listing.files if name not in (*parts.shards, *beside, CONFIG))
    rest = [*beside, *([CONFIG] if config is not None else []), *others]
    first = len(parts.shards) + len(rest) - len(others)
    numbers = {name: number for number, name in enumerate(others, start=first)}
    companions = read_companions(parts.root, numbers, read_part)
    folder = Folder(
        container,
        parts.shards,
        parts.index_name,
        parts.index.totals if parts.index else (),
        None if config is None else config.decode("utf-8", "replace"),
        others,
        listing.empty,
        listing.odd,
    )
    return Stored(
        path=parts.root,
        format="sharded",
        identity=shards[0].identity,
        tree=tensors,
        records={**records, **companions.records},
        metadata=_metadata(parts, shards, config),
        tag=tag,
        tag_fault=fault,
        details={
            "container": f"folder of {container}",
            "shards": str(len(shards)),
            **_details(shards),
            **({TIED: "some"} if any(TIED in shard.details for shard in shards) else {}),
        },
        folder=folder,
        parts=(
            *(StoredFile(shard.path, shard.identity) for shard in shards),
            *(StoredFile(parts.root / name, listing.files[name]) for name in rest),
        ),
        beside=companions,
    )


# --- which files ------------------------------------------------------------------------------


def _choose(root: Path) -> str:
    """The index of a folder, or its only file of weights."""
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        what = f"cannot read the folder {root.name or root}: {error.strerror}"
        raise StorageError("CKM707", what, where=str(root), fix="Check its permissions.") from None
    for stem, suffix in WEIGHTS:
        usual = stem + suffix + INDEX_SUFFIX
        indexes = [name for name in names if name.endswith(suffix + INDEX_SUFFIX)]
        if usual in indexes or len(indexes) == 1:
            return usual if usual in indexes else indexes[0]
        if indexes:
            _refuse_choice(root, indexes)
        if stem + suffix in names:
            return stem + suffix
    raise _no_weights(root, names)


def _refuse_choice(root: Path, found: Sequence[str]) -> Never:
    raise StorageError(
        "CKM765",
        f"{root.name or root} holds several checkpoints",
        where=str(root),
        details=tuple(found[:10]),
        why="Which of them is meant cannot be told from their names.",
        fix=f"Name one of them: {root / found[0]}",
    )


def _no_weights(root: Path, names: Sequence[str]) -> StorageError:
    if any(name.endswith(DATA_SUFFIX) for name in names):
        return _no_metadata(root)
    weights = [n for n in names if n.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin"))]
    listed = ", ".join(str(root / name) for name in weights[:3])
    return StorageError(
        "CKM707",
        f"{root.name or root} is a folder",
        where=str(root),
        why="a folder is a checkpoint where it has an index of shards (*.safetensors.index.json, "
        "*.bin.index.json) or a model.safetensors",
        fix=f"Give a file in it, such as {listed}." if weights else "Give a checkpoint file.",
    )


def _no_metadata(root: Path) -> StorageError:
    return StorageError(
        "CKM787",
        f"{root.name or root} has data of a distributed checkpoint, and no {METADATA}",
        where=str(root),
        why=f"torch.distributed.checkpoint.save writes {METADATA} last: it was cut off, or the "
        "hidden file was left behind by a copy, as `cp DIR/*` does.",
        fix=f"Copy {METADATA} from where the checkpoint was saved; if it is not there either, take "
        "an earlier checkpoint.",
    )


def _require_present(root: Path, index_name: str, shards: Sequence[str]) -> None:
    missing = [name for name in shards if not os.path.exists(root / name)]
    if missing:
        more = (f"… {len(missing) - 20} more",) if len(missing) > 20 else ()
        raise StorageError(
            "CKM763",
            f"{len(missing)} of {len(shards)} shards are missing",
            where=str(root / index_name),
            details=(*missing[:20], *more),
            why="The index names them, and they are not in its folder.",
            fix="Download the rest of the checkpoint.",
        )


# --- what they say together -------------------------------------------------------------------


def _readable(stored: Stored) -> Stored:
    """A shard holds tensors by name and nothing else."""
    entries = entries_of(stored.tree) if stored.folder is None else None
    odd = None
    if entries is None:
        odd = "its top level is no dict of tensors"
    for name, node in (entries or {}).items():
        if not isinstance(name, str) or not isinstance(node, Tensor):
            odd = f"{name!r:.80} in it is no tensor"
            break
    if odd is None:
        return stored
    raise StorageError(
        "CKM766",
        f"{stored.path.name} is no shard of a checkpoint",
        where=str(stored.path),
        why=f"{odd}; a shard holds tensors by name and nothing else",
        fix="Give the file itself instead of its folder.",
    )


def _container(parts: _Parts, shards: Sequence[Stored]) -> Container:
    first = shards[0]
    for shard in shards:
        if shard.format != first.format:
            raise StorageError(
                "CKM766",
                f"{first.path.name} is a {first.format} file, {shard.path.name} is a "
                f"{shard.format} file",
                where=parts.where,
                why="All shards of a checkpoint are of one format.",
                fix="Download or save the checkpoint again.",
            )
    return "safetensors" if first.format == "safetensors" else "torch"


def _joined(parts: _Parts, shards: Sequence[Stored]) -> tuple[dict[str, Tensor], dict[str, Record]]:
    """The tensors of all shards, once index and shards are known to agree."""
    tensors: dict[str, Tensor] = {}
    records: dict[str, Record] = {}
    owner: dict[str, str] = {}
    faults: list[str] = []
    for number, shard in enumerate(shards):
        held, moved = _numbered(shard, number)
        records.update(moved)
        for name, tensor in held.items():
            if name in owner:
                faults.append(f"{name!r} is in {owner[name]} and in {shard.path.name}")
            owner.setdefault(name, shard.path.name)
            tensors.setdefault(name, tensor)
    if parts.index is not None:
        left_out = {n for shard in shards for n in _left_out(shard)}
        stored = {name: file for name, file in owner.items() if name not in left_out}
        faults += _disagreements(parts.index.weight_map, owner, stored)
    if faults:
        more = (f"… {len(faults) - 20} more",) if len(faults) > 20 else ()
        raise StorageError(
            "CKM764",
            f"the index and the shards disagree about {len(faults)} tensors",
            where=parts.where,
            details=(*faults[:20], *more),
            why="Every tensor is in one shard, and the index names that shard.",
            fix="Download or save the checkpoint again: files of two versions may be mixed.",
        )
    return tensors, records


def _left_out(shard: Stored) -> Iterator[str]:
    """Names of which a shard only says that they are tied to one that it stores."""
    if TIED in shard.details:
        for name, tensor in (entries_of(shard.tree) or {}).items():
            if isinstance(tensor, Tensor) and tensor.storage.key != name:
                yield str(name)


def _disagreements(
    weight_map: Mapping[str, str], owner: Mapping[str, str], stored: Mapping[str, str]
) -> Iterator[str]:
    for name, file in weight_map.items():
        if name not in owner:
            yield f"{name!r} is not in {file}, where the index says it is"
        elif owner[name] != file:
            yield f"{name!r} is in {owner[name]}; the index says {file}"
    for name, file in stored.items():
        if name not in weight_map:
            yield f"{name!r} is in {file}; the index does not know it"


def _numbered(shard: Stored, number: int) -> tuple[dict[str, Tensor], dict[str, Record]]:
    """The tensors and records of a shard; every storage key says which shard it is of."""
    storages: dict[str, Storage] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in (entries_of(shard.tree) or {}).items():
        assert isinstance(name, str)
        assert isinstance(tensor, Tensor)
        old = tensor.storage
        new = storages.setdefault(old.key, replace(old, key=f"{number}/{old.key}"))
        tensors[name] = replace(tensor, storage=new)
    records = {
        storage.key: replace(shard.records[key], file=number) for key, storage in storages.items()
    }
    return tensors, records


def _tag(parts: _Parts, shards: Sequence[Stored]) -> tuple[str | None, str | None]:
    """The tag on which all parts agree, or why there is none."""
    found = {shard.path.name: shard.tag for shard in shards}
    if parts.index is not None and parts.index_name is not None:
        found = {parts.index_name: parts.index.tag, **found}
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            one, two = (_shown(found[name]) for name in (first, other))
            return None, f"{first} {one}, {other} {two}"
    return found[first], None


def _shown(tag: str | None) -> str:
    if tag is None:
        return "has no tag"
    try:
        revision = json_object(tag.encode(), where="", code="CKM761", what="").get("revision")
    except (StorageError, UnicodeError):
        return "has a tag that cannot be read"
    return f"says {revision!r:.70}" if revision is not None else "says base"


def _details(shards: Sequence[Stored]) -> dict[str, str]:
    """What the readers of the shards remark about what no result will have."""
    keys = ("other records", "unused storages")
    found = {key: [s.details[key] for s in shards if key in s.details] for key in keys}
    return {key: ", ".join(texts) for key, texts in found.items() if texts}


def _metadata(parts: _Parts, shards: Sequence[Stored], config: bytes | None) -> dict[str, object]:
    """What all shards say together, then config.json, then what the index says beside sizes."""
    found: dict[str, object] = {}
    owner: dict[str, str] = {}
    for shard in shards:
        for key, value in shard.metadata.items():
            if key.split(".")[0] in JSON_ROOTS:
                why = f"{key!r} in {shard.path.name} would hide a part of the folder"
                _refuse_metadata(parts, key, why)
            if found.setdefault(key, value) != value:
                why = f"{owner[key]} says {found[key]!r:.80}, {shard.path.name} {value!r:.80}"
                _refuse_metadata(parts, key, why)
            owner.setdefault(key, shard.path.name)
    if config is not None:
        where, fix = str(parts.root / CONFIG), "Correct the file, or move it out of the folder."
        found["config"] = json_object(config, where=where, code="CKM768", what=CONFIG, fix=fix)
    if parts.index is not None and parts.index.metadata:
        found["index"] = dict(parts.index.metadata)
    return found


def _refuse_metadata(parts: _Parts, key: str, why: str) -> Never:
    raise StorageError(
        "CKM767",
        f"the metadata {key!r} of the shards cannot be read as one",
        where=parts.where,
        why=why,
        fix="Save the checkpoint again with the same metadata in every shard.",
    )
