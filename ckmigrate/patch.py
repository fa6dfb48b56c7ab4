"""The change in place that a plan becomes: a header, an appended directory, an index.

What `make_output` decides for a copy (names, metadata, tag) is decided in the same way here; only
where the bytes of the tensors lie is what it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ckmigrate.errors import MigrationError
from ckmigrate.execute.fill import read_expression
from ckmigrate.execute.patch import FilePatch, Patch, small_files
from ckmigrate.execute.source import open_source
from ckmigrate.expr import Source
from ckmigrate.formats import safetensors, torch_zip
from ckmigrate.formats.base import FileIdentity, Stored
from ckmigrate.formats.open_checkpoint import open_regular
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.tree_paths import entries_of
from ckmigrate.migrate import build_output, dropped_state, layout_after
from ckmigrate.output import OutputFile, held_tensors, result_tree, unused_prefix
from ckmigrate.output_companions import changed_companions
from ckmigrate.output_folder import kept_shards
from ckmigrate.patch_dcp import dcp_obstacles, dcp_output, make_dcp_patch
from ckmigrate.places import Places, data_start, find_places
from ckmigrate.planning import Entry
from ckmigrate.prepare import Prepared

__all__ = ["make_patch", "obstacles"]


def obstacles(prepared: Prepared) -> tuple[str, ...]:
    """Why a plan needs more than a change in place, a line for each reason; nothing is read."""
    if prepared.opened.stored.format == "dcp":
        return dcp_obstacles(prepared)
    return find_places(prepared).obstacles


def make_patch(prepared: Prepared) -> Patch:
    """The change in place of a plan. Headers are read again, tensors are not.

    MigrationError CKM580 where the plan needs more; StorageError as `build_output` raises.
    """
    stored = prepared.opened.stored
    if stored.format == "dcp":
        return _dcp_folder(prepared)
    places = find_places(prepared)
    if places.obstacles:
        raise _refused(prepared, places.obstacles)
    if stored.folder is not None:
        return _folder(prepared, places)
    if stored.format == "torch":
        return _torch_file(prepared, places)
    return Patch((_header(prepared, places, 0, "", build_output(prepared, stored.path).files[""]),))


def _refused(prepared: Prepared, lines: Sequence[str]) -> MigrationError:
    return MigrationError(
        "CKM580",
        "--fast cannot do this: the plan needs more than new names and headers",
        where=str(prepared.opened.stored.path),
        details=tuple(lines),
        why="--fast changes what a file says about its tensors and leaves their bytes where they "
        "are. Nothing was changed.",
        fix="Leave --fast out: --in-place alone writes a new file and keeps the old one.",
    )


# --- safetensors ------------------------------------------------------------------------------


def _header(
    prepared: Prepared, places: Places, number: int, name: str, file: OutputFile
) -> FilePatch:
    """The header of a file, over data that stays where it is."""
    stored = prepared.opened.stored
    start, part = data_start(prepared, number), stored.files[number]
    found = {key: places.found.get(work.label) for key, work in file.work.items()}
    begins = {key: p.begin - start if p.nbytes else 0 for key, p in found.items() if p is not None}
    added = _added_data(prepared, places, file)
    end = part.identity.size
    begins |= {key: end - start + offset for key, (offset, _) in added.items()}
    block = max(safetensors.BLOCK, os.statvfs(part.path).f_frsize)
    raw = safetensors.header_over(file.image, begins, start=start, block=block)
    insert, data = len(raw) - start, b"".join(data for _, data in added.values())
    writes = ((0, raw), *([(end + insert, data)] if data else []))
    return FilePatch(name, part.identity, end + insert + len(data), writes, insert)


def _added_data(
    prepared: Prepared, places: Places, file: OutputFile
) -> dict[str, tuple[int, bytes]]:
    """The new tensors of a file by key: where they lie behind its end, and their bytes."""
    made = _new_bytes(prepared, places)
    wanted = {key: made[work.label] for key, work in file.work.items() if work.label in made}
    bits = {key: file.work[key].expr.spec.dtype.bits for key in wanted}
    added: dict[str, tuple[int, bytes]] = {}
    offset = 0
    # By falling item size, so that each begins at a multiple of its own if the first does.
    for key in sorted(wanted, key=lambda key: -bits[key]):
        added[key] = (offset, wanted[key])
        offset += len(wanted[key])
    return added


# --- a folder ---------------------------------------------------------------------------------


def _folder(prepared: Prepared, places: Places) -> Patch:
    stored = prepared.opened.stored
    folder = stored.folder
    assert folder is not None
    present = _present(stored)
    output = build_output(prepared, stored.path, folder=True)
    moved = [name for name in folder.shards if name not in output.shards]
    gone = [n for n in present if n not in output.files and n not in output.carried]
    if moved or gone:
        raise _refused(
            prepared, [f"{name} would go, or get another name" for name in moved or gone]
        )
    patches, spare = _companions(prepared, places)
    own = {*output.shards, *(patch.name for patch in patches)}
    if folder.container == "torch":
        shards, more = _torch_shards(prepared, places)
        patches, spare = [*shards, *patches], spare + more
    else:
        for number, name in enumerate(folder.shards):
            patches.append(_header(prepared, places, number, name, output.files[name]))
    texts = {name: file.image for name, file in output.files.items() if name not in own}
    small = {name: b"".join(raw for _, raw in image.chunks) for name, image in texts.items()}
    return Patch((*patches, *small_files(small, present)), spare)


def _present(stored: Stored) -> dict[str, FileIdentity]:
    """Every file of a folder by its relative name."""
    return {str(f.path.relative_to(stored.path)): f.identity for f in stored.files}


def _dcp_folder(prepared: Prepared) -> Patch:
    output = dcp_output(prepared)
    if reasons := dcp_obstacles(prepared, output):
        raise _refused(prepared, reasons)
    return make_dcp_patch(prepared, output)


# --- torch ------------------------------------------------------------------------------------


def _torch_file(prepared: Prepared, places: Places) -> Patch:
    opened, request = prepared.opened, prepared.request
    tree = prepared.plan.trace.end.meta.tree
    layout = layout_after(tree, prepared)
    made = _tensors(prepared, places, prepared.plan.tensors)
    result = result_tree(
        prepared.plan,
        opened.stored,
        layout,
        tree,
        made,
        gone=dropped_state(layout, request),
        unwrap=request.unwrap,
        weights_only=request.weights_only,
    )
    nested = bool(layout.path) and not request.weights_only and entries_of(result) is not None
    new = _new_storages(prepared, places, made)
    patch, used = _added(prepared, 0, "", result, new, nested=nested)
    return Patch((patch,), _spare(opened.stored, 0, used))


def _torch_shards(prepared: Prepared, places: Places) -> tuple[list[FilePatch], int]:
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


def _companions(prepared: Prepared, places: Places) -> tuple[list[FilePatch], int]:
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
            raise _refused(prepared, [f"{file.path.name} is of torch before 1.6"])
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
    found = _new_bytes(prepared, places)
    return {made[name].storage.key: data for name, data in found.items() if name in made}


def _new_bytes(prepared: Prepared, places: Places) -> dict[str, bytes]:
    """The bytes of entries that are added."""
    names, held = frozenset(places.new), held_tensors(prepared.plan, prepared.opened.layout)
    with open_source(prepared.opened.stored, held) as source:
        new = (entry for entry in prepared.plan.tensors if entry.name in names)
        return {entry.name: read_expression(entry.expr, source) for entry in new}


def _spare(stored: Stored, number: int, used: set[str]) -> int:
    """Bytes of storages of a file that nothing names any more."""
    records = stored.records.items()
    return sum(r.nbytes for key, r in records if r.file == number and key not in used)
