"""The folder that a plan becomes: which shard holds which tensor, and what stands around them.

A folder keeps its layout: every entry goes to the shard of its first source, what is new goes to
the last one. Only where a size is given for the shards they are filled anew, in the plan's order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ckmigrate.contents import Contents
from ckmigrate.errors import StorageError
from ckmigrate.execute.fill import Work
from ckmigrate.expr import sources
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import Container, FileImage, Folder, Stored
from ckmigrate.formats.folder_names import CONFIG, INDEX_SUFFIX
from ckmigrate.formats.shard_index import render_index, render_like
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import entries_of
from ckmigrate.output import (
    Output,
    OutputFile,
    left_out,
    lost_beside_weights,
    string_metadata,
    would_lose,
)
from ckmigrate.output_companions import make_companions
from ckmigrate.output_torch import new_tensors, torch_work
from ckmigrate.placement import safetensors_image, torch_phases
from ckmigrate.planning import Entry, Plan
from ckmigrate.training.layouts import Layout

__all__ = ["Shard", "kept_shards", "make_folder"]

_NUMBERED: Final = re.compile(r"(.+)-[0-9]{5,}-of-[0-9]{5,}(\.[^.]+)")
_SUFFIX: Final[Mapping[Container, str]] = {"safetensors": ".safetensors", "torch": ".bin"}
_STEM: Final[Mapping[Container, str]] = {"safetensors": "model", "torch": "pytorch_model"}


@dataclass(frozen=True, slots=True)
class Shard:
    """Entries of one file.

    origin  number of the source file that gives it its place
    tied    names that only its metadata has, by the name that is stored
    """

    origin: int
    entries: tuple[Entry, ...]
    tied: Mapping[str, str] = field(default_factory=dict)


def make_folder(contents: Contents, *, max_shard_size: int | None) -> Output:
    """The output folder of these contents.

    max_shard_size  bytes of tensors in one file, more only where one tensor is larger; None keeps
                    the layout of the source, which of a single file is one file

    StorageError CKM740 where something besides the weights would be lost without weights_only,
    CKM771 where a file that comes along has the name of a new one, CKM772 where it cannot come.
    """
    plan, stored, layout = contents.plan, contents.stored, contents.layout
    tree, prefix = contents.tree, contents.prefix
    lost = [] if contents.weights_only else _lost(contents)
    if lost:
        raise would_lose(stored, lost, "a folder of shards has no place for them")
    container = stored.folder.container if stored.folder else "safetensors"
    shards = _sized(contents, max_shard_size) if max_shard_size else None
    names, index = _names(
        stored, shards or kept_shards(plan, stored, layout), is_new=shards is not None
    )
    names = {name: _without_tied(shard, left_out(plan, stored)) for name, shard in names.items()}
    made = _Maker(contents, string_metadata(stored, tree))
    files = {name: made.file(shard, container) for name, shard in names.items()}
    if index is not None:
        weight_map = {prefix + e.name: n for n, shard in names.items() for e in shard.entries}
        files[index] = _text(render_index(weight_map, _index_metadata(contents), contents.tag))
    carried: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    tensors = dict(layout.entries)
    if stored.folder is not None and not contents.weights_only:
        companions = make_companions(contents)
        files |= _config(stored, tree)
        carried = _carried(stored.folder, tree, companions.gone, files)
        _require_carried(stored, files, carried)
        files |= companions.files
        tensors |= companions.tensors
        empty = stored.folder.empty
    return Output("sharded", files, tensors, tuple(names), index, carried, empty)


def _lost(contents: Contents) -> list[str]:
    folder = contents.stored.folder
    if folder is None:
        return lost_beside_weights(contents)
    if folder.container == "safetensors":
        return []
    pairs = (entries_of(contents.tree) or {}).items()
    texts = (key for key, value in pairs if isinstance(value, str))
    return [f"metadata '{key}'" for key in texts]


def _without_tied(shard: Shard, tied: Mapping[str, str]) -> Shard:
    """The shard without those names that are tied to another one in it."""
    here = {entry.name for entry in shard.entries}
    left = {name: kept for name, kept in tied.items() if name in here and kept in here}
    return replace(shard, entries=tuple(e for e in shard.entries if e.name not in left), tied=left)


# --- which shard ------------------------------------------------------------------------------


def _origin(entry: Entry, stored: Stored, layout: Layout) -> int | None:
    """The source file of an entry's first source; None for what is new."""
    name = next(iter(sources(entry.expr)), None)
    return None if name is None else stored.records[layout.entries[name].storage.key].file


def kept_shards(plan: Plan, stored: Stored, layout: Layout) -> list[Shard]:
    """The entries by the shard that they stay in; what is new goes to the last one."""
    origins = [_origin(entry, stored, layout) for entry in plan.entries]
    last = max((number for number in origins if number is not None), default=0)
    groups: dict[int, list[Entry]] = {}
    for entry, origin in zip(plan.entries, origins, strict=True):
        groups.setdefault(last if origin is None else origin, []).append(entry)
    return [Shard(n, tuple(groups[n])) for n in sorted(groups)] or [Shard(0, ())]


def _sized(contents: Contents, most: int) -> list[Shard]:
    """Shards filled one after the other; a name that is not written stands where its tensor is."""
    plan, stored, layout = contents.plan, contents.stored, contents.layout
    tied = left_out(plan, stored)
    groups: list[list[Entry]] = [[]]
    room = most
    for entry in (entry for entry in plan.entries if entry.name not in tied):
        if groups[-1] and entry.spec.nbytes > room:
            groups.append([])
            room = most
        groups[-1].append(entry)
        room -= entry.spec.nbytes
    for entry in (entry for entry in plan.entries if entry.name in tied):
        next(g for g in groups if tied[entry.name] in {e.name for e in g}).append(entry)
    firsts = [_origin(group[0], stored, layout) if group else None for group in groups]
    return [Shard(n or 0, tuple(group)) for n, group in zip(firsts, groups, strict=True)]


def _names(
    stored: Stored, shards: Sequence[Shard], *, is_new: bool
) -> tuple[dict[str, Shard], str | None]:
    """The file name of every shard, and that of the index, if there is one.

    Numbered names are numbered anew; others are kept, as long as their shards are.
    """
    folder = stored.folder
    stem, suffix = _stem(folder)
    old = folder.shards if folder else ()
    has_index = len(shards) > 1 or bool(folder and folder.index)
    index = (folder.index if folder else None) or f"{stem}{suffix}{INDEX_SUFFIX}"
    own = old and not is_new and not all(_NUMBERED.fullmatch(name) for name in old)
    if own:
        names = [old[shard.origin] for shard in shards]
    elif has_index:
        total = len(shards)
        names = [f"{stem}-{n:05d}-of-{total:05d}{suffix}" for n in range(1, total + 1)]
    else:
        names = [f"{stem}{suffix}"]
    return dict(zip(names, shards, strict=True)), index if has_index else None


def _stem(folder: Folder | None) -> tuple[str, str]:
    """What the names of shards begin and end with."""
    container: Container = folder.container if folder else "safetensors"
    suffix = _SUFFIX[container]
    if folder is None:
        return _STEM[container], suffix
    numbered = _NUMBERED.fullmatch(folder.shards[0])
    if numbered is not None:
        return numbered[1], numbered[2]
    ending = suffix + INDEX_SUFFIX
    if folder.index is not None and folder.index.endswith(ending):
        return folder.index.removesuffix(ending) or _STEM[container], suffix
    return _STEM[container], suffix


# --- the files --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Maker:
    """What all shards have in common."""

    contents: Contents
    metadata: Mapping[str, str]

    def file(self, shard: Shard, container: Container) -> OutputFile:
        return self._safetensors(shard) if container == "safetensors" else self._torch(shard)

    def _safetensors(self, shard: Shard) -> OutputFile:
        contents, prefix = self.contents, self.contents.prefix
        tied = {prefix + name: prefix + kept for name, kept in shard.tied.items()}
        image = safetensors_image(
            shard.entries,
            contents.stored,
            contents.layout.entries,
            prefix=prefix,
            metadata={**self.metadata, **tied},
            tag=contents.tag,
        )
        work = {prefix + e.name: Work(e.name, e.expr, e.lowered) for e in shard.entries}
        ordered = sorted(work, key=lambda key: image.slots[key].offset)
        return OutputFile(image, {key: work[key] for key in ordered})

    def _torch(self, shard: Shard) -> OutputFile:
        stored, held = self.contents.stored, self.contents.layout.entries
        made, prefix = new_tensors(self.contents), self.contents.prefix
        tree: dict[str, Tensor] = {prefix + e.name: made[e.name] for e in shard.entries}
        where = torch_phases(shard.entries, made, stored, held)
        image = torch_zip.image(tree, tag=self.contents.tag, tag_as="record", phases=where)
        work, _ = torch_work(shard.entries, made, image, stored, held, tree)
        return OutputFile(image, work)


def _text(raw: bytes) -> OutputFile:
    return OutputFile(FileImage(len(raw), ((0, raw),), {}))


def _index_metadata(contents: Contents) -> dict[str, object]:
    stored = contents.stored
    specs = [entry.spec for entry in contents.plan.entries]
    sizes = {
        "total_parameters": sum(spec.numel for spec in specs),
        "total_size": sum(spec.nbytes for spec in specs),
    }
    wanted = stored.folder.totals if stored.folder and stored.folder.totals else ("total_size",)
    beside = (entries_of(contents.tree) or {}).get("index") if stored.folder else None
    rest = {str(key): value for key, value in (entries_of(beside) or {}).items()}
    return {**{key: sizes[key] for key in sizes if key in wanted}, **rest}


def _config(stored: Stored, tree: object) -> dict[str, OutputFile]:
    """config.json, where the migration changed it."""
    assert stored.folder is not None
    new = (entries_of(tree) or {}).get("config")
    text = stored.folder.config
    if new is None or text is None or _is_same(new, stored.metadata["config"]):
        return {}
    return {CONFIG: _text(render_like(new, text).encode())}


def _is_same(one: object, other: object) -> bool:
    """Whether two JSON values are written the same: 1, 1.0 and true are equal, and differ here."""
    return one is other or repr(one) == repr(other)


def _carried(
    folder: Folder, tree: object, gone: Collection[str], files: Mapping[str, OutputFile]
) -> tuple[str, ...]:
    keeps_config = "config" in (entries_of(tree) or {}) and CONFIG not in files
    config = (CONFIG,) if keeps_config else ()
    return (*config, *(name for name in folder.others if name not in gone))


def _require_carried(
    stored: Stored, files: Mapping[str, OutputFile], carried: Sequence[str]
) -> None:
    taken = [name for name in carried if name in files]
    if taken:
        raise StorageError(
            "CKM771",
            f"{taken[0]} is no part of the checkpoint, and a new file would have its name",
            where=str(stored.path),
            why="Every other file of the folder is carried along.",
            fix="Move it out of the folder first.",
        )
    assert stored.folder is not None
    if stored.folder.odd:
        raise StorageError(
            "CKM772",
            f"{len(stored.folder.odd)} entries of the folder cannot be carried along",
            where=str(stored.path),
            details=stored.folder.odd[:10],
            why="They are links that lead to no file, links to folders, or no files at all.",
            fix="Move them out of the folder, or leave all other files behind: --weights-only.",
        )
