"""The change in place of a file of torch.save: a new directory behind records that stay."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ckmigrate.execute.patch import FilePatch, Patch
from ckmigrate.expr import Source
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import Stored
from ckmigrate.formats.open_checkpoint import open_regular
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.migrate import contents_of, dropped_state
from ckmigrate.output import held_tensors
from ckmigrate.output_companions import changed_companions
from ckmigrate.output_folder import kept_shards
from ckmigrate.output_torch import is_nested, result_tree, unused_prefix
from ckmigrate.places import Places, needs_copy, new_bytes
from ckmigrate.planning import Entry
from ckmigrate.prepare import Prepared

__all__ = ["companion_patches", "torch_patch", "torch_shard_patches"]


def torch_patch(prepared: Prepared, places: Places) -> Patch:
    """The change of a checkpoint that is one file; MigrationError CKM580 where it has no directory,
    StorageError CKM740 where something would be lost."""
    contents = contents_of(prepared)
    made = _tensors(prepared, places, prepared.plan.tensors)
    result = result_tree(contents, made)
    new = _new_storages(prepared, places, made)
    patch, used = _added(prepared, 0, "", result, new, nested=is_nested(contents, result))
    return Patch((patch,), _spare(contents.stored, 0, used))


def torch_shard_patches(prepared: Prepared, places: Places) -> tuple[list[FilePatch], int]:
    """The changes of the shards of a folder, and the bytes that belong to nothing after them."""
    opened, plan = prepared.opened, prepared.plan
    folder = opened.stored.folder
    assert folder is not None
    made = _tensors(prepared, places, prepared.plan.tensors)
    prefix = "" if prepared.request.unwrap else opened.layout.prefix
    new = _new_storages(prepared, places, made)
    patches, spare = [], 0
    for shard in kept_shards(plan, opened.stored, opened.layout):
        tree = {prefix + entry.name: made[entry.name] for entry in shard.entries}
        name = folder.shards[shard.origin]
        patch, storages = _added(prepared, shard.origin, name, tree, new)
        patches.append(patch)
        spare += _spare(opened.stored, shard.origin, storages)
    return patches, spare


def companion_patches(prepared: Prepared, places: Places) -> tuple[list[FilePatch], int]:
    """The files of training state that change."""
    opened = prepared.opened
    made = _tensors(prepared, places, prepared.plan.state)
    gone = dropped_state(opened.layout, prepared.request)
    trees = changed_companions(prepared.plan, opened.stored, opened.layout, gone, made)
    numbers = {file.path.name: number for number, file in enumerate(opened.stored.files)}
    new = _new_storages(prepared, places, made)
    patches, spare = [], 0
    for name, tree in trees.items():
        patch, storages = _added(prepared, numbers[name], name, tree, new, tagged=False)
        patches.append(patch)
        spare += _spare(opened.stored, numbers[name], storages)
    return patches, spare


def _added(
    prepared: Prepared,
    number: int,
    name: str,
    tree: object,
    new: Mapping[str, bytes],
    *,
    nested: bool = False,
    tagged: bool = True,
) -> tuple[FilePatch, set[str]]:
    """What is added to a torch file, and the keys of the old storages that it goes on using."""
    stored = prepared.opened.stored
    file = stored.files[number]
    here = {key: record for key, record in stored.records.items() if record.file == number}
    fd = open_regular(file.path)
    try:
        if os.pread(fd, 4, 0)[:2] != b"PK":
            raise needs_copy(prepared, [f"{file.path.name} is of torch before 1.6"])
        made = torch_zip.addition(
            fd,
            file.identity.size,
            tree,
            tag=prepared.tag.to_json() if tagged else None,
            tag_as="key" if nested else "record",
            records={key: _record_name(key, stored) for key in here},
            new=new,
            where=str(file.path),
        )
    finally:
        os.close(fd)
    patch = FilePatch(name, file.identity, made.size, ((made.offset, made.data),))
    return patch, set(made.used)


def _record_name(key: str, stored: Stored) -> str:
    """Of a folder, the key says which shard the storage is in."""
    return key.partition("/")[2] if stored.folder else key


def _tensors(prepared: Prepared, places: Places, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Each entry as a view of the storage that it lies in; tied ones are the same view."""
    opened, plan = prepared.opened, prepared.plan
    held, first = held_tensors(plan, opened.layout), plan.owners
    storages = {t.storage.key: t.storage for t in held.values()}
    made: dict[str, Tensor] = {}
    for entry in entries:
        like = _like(entry, held)
        place = places.found.get(entry.name)
        owner = made.get(first.get(entry.name, entry.name))
        if owner is not None:
            at = owner
        elif place is None:
            key = unused_prefix(opened.stored) + entry.name
            at = _contiguous(Storage(key, entry.spec.dtype, entry.spec.nbytes), entry, 0)
        elif like is not None:
            at = like
        else:
            at = _contiguous(storages[place.unit], entry, place.begin)
        made[entry.name] = replace(
            at,
            requires_grad=bool(like and like.requires_grad),
            parameter=bool(like and like.parameter),
            attributes=like.attributes if like else None,
        )
    return made


def _like(entry: Entry, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor that an entry is under another name."""
    return tensors[entry.expr.name] if isinstance(entry.expr, Source) else None


def _contiguous(storage: Storage, entry: Entry, begin: int) -> Tensor:
    spec = entry.spec
    return Tensor(storage, spec, begin * 8 // spec.dtype.bits, contiguous_strides(spec.shape))


def _new_storages(
    prepared: Prepared, places: Places, made: Mapping[str, Tensor]
) -> dict[str, bytes]:
    """The bytes of new storages by their key."""
    found = new_bytes(prepared, places)
    return {made[name].storage.key: data for name, data in found.items() if name in made}


def _spare(stored: Stored, number: int, used: set[str]) -> int:
    """Bytes of storages of a file that nothing names any more."""
    records = stored.records.items()
    return sum(r.nbytes for key, r in records if r.file == number and key not in used)
