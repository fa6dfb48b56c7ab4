"""The DCP folder that a plan becomes: which data files stay, and what one new file holds.

Entries that consist of whole chunks of the source keep them, and `.metadata` says where those are
(`ckmigrate.leaves_dcp`). What is new stands in one data file, each tensor as one chunk. A data file
of which less than half would still be used is not carried along; what is left of it is written
anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ckmigrate.contents import Contents
from ckmigrate.errors import StorageError
from ckmigrate.execute.fill import Work
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import FileImage, Slot, Stored
from ckmigrate.formats.dcp_metadata import (
    BytesItem,
    Chunk,
    DcpMetadata,
    Item,
    Place,
    TensorItem,
    new_metadata,
    plain_properties,
    render_metadata,
)
from ckmigrate.formats.dcp_tag import digest_of, render_tags
from ckmigrate.formats.folder_names import METADATA, TAG_FILE
from ckmigrate.formats.torch_tag import TAG_KEY, with_tag
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.zip_image import ALIGNMENT
from ckmigrate.leaves_dcp import Leaf, find_leaves
from ckmigrate.output import (
    Output,
    OutputFile,
    held_tensors,
)
from ckmigrate.output_torch import new_tensors, result_tree, torch_work
from ckmigrate.planning import Entry

__all__ = ["make_dcp"]

_ZIP_KEY: Final = "{number}/{key}"


def make_dcp(contents: Contents, *, in_place: bool = False) -> Output:
    """The output folder of these contents.

    in_place  every chunk that is still used stays where it is, however little of its file that is

    StorageError CKM735 where two entries would have one name, CKM740 where something besides the
    weights would be lost without weights_only, CKM772 where a file cannot come along.
    """
    plan, stored, weights_only = contents.plan, contents.stored, contents.weights_only
    made = new_tensors(contents)
    result = result_tree(contents, made)
    old = stored.dcp or new_metadata()
    if (TAG_KEY,) in old.paths.values() and not weights_only:
        # Who saved it there loads it again, and DCP refuses to load what is missing.
        result = with_tag(result, contents.tag)
    held = held_tensors(plan, contents.layout)
    entries = {id(made[entry.name]): entry for entry in plan.tensors}
    leaves = find_leaves(result, old, stored, held, entries)
    kept_files = frozenset(old.files) if in_place else _kept_files(leaves, stored)
    others = stored.folder.others if stored.folder and stored.dcp and not weights_only else ()
    _require_carried(stored, weights_only=weights_only)
    writer = _Writer(plan.tensors, made, stored, held, _free_name(stored))
    items = {leaf.name: writer.item(leaf, kept_files) for leaf in leaves}
    paths = {leaf.name: leaf.path for leaf in leaves}
    nested = old.nested or any(path != (name,) for name, path in paths.items())
    metadata = render_metadata(DcpMetadata(items, paths, nested, old.root))
    files = {METADATA: _text(metadata), **writer.files()}
    tags = [(digest_of(metadata), contents.tag)]
    files[TAG_FILE] = _text(render_tags(tags))
    left = {str(path[0]) for path in contents.gone}
    places = {place for item in items.values() for place in item.places}
    used = {place.file for place in places}
    unused = {place for item in old.items.values() for place in item.places} - places
    data = stored.folder.shards if stored.folder and stored.dcp else ()
    return Output(
        "dcp",
        files,
        writer.tensors,
        tuple(writer.files()),
        METADATA,
        (*(name for name in data if name in used), *(n for n in others if n not in left)),
        stored.folder.empty if stored.folder and others else (),
        tuple(name for name in data if name not in used),
        {TAG_FILE: render_tags([*_old_tags(stored), *tags])},
        sum(place.nbytes for place in unused),
    )


def _old_tags(stored: Stored) -> list[tuple[str, str]]:
    return [(stored.dcp.digest, stored.tag)] if stored.dcp and stored.tag else []


def _text(raw: bytes) -> OutputFile:
    return OutputFile(FileImage(len(raw), ((0, raw),), {}))


def _free_name(stored: Stored) -> str:
    """The name of the new data file; one that nothing in the source folder has."""
    taken = {file.path.name for file in stored.files} if stored.dcp else set()
    number = 0
    while f"__0_{number}.distcp" in taken:
        number += 1
    return f"__0_{number}.distcp"


def _require_carried(stored: Stored, *, weights_only: bool) -> None:
    if stored.dcp and stored.folder and stored.folder.odd and not weights_only:
        raise StorageError(
            "CKM772",
            f"{len(stored.folder.odd)} entries of the folder cannot be carried along",
            where=str(stored.path),
            details=stored.folder.odd[:10],
            why="They are links that lead to no file, links to folders, or no files at all.",
            fix="Move them out of the folder, or leave all other files behind: --weights-only.",
        )


# --- which data files stay ---------------------------------------------------------------------


def _kept_files(leaves: Iterable[Leaf], stored: Stored) -> frozenset[str]:
    """The data files of the source of which at least half stays in use."""
    sizes = {file.path.name: file.identity.size for file in stored.files} if stored.dcp else {}
    used: Counter[str] = Counter()
    for place in {place for leaf in leaves if leaf.kept for place in leaf.kept.places}:
        used[place.file] += place.nbytes
    return frozenset(name for name, nbytes in used.items() if 2 * nbytes >= sizes[name])


# --- the new data file ------------------------------------------------------------------------


class _Writer:
    """Puts what is new into one data file.

    tensors  the sources by name, as `Output.tensors`
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        made: Mapping[str, Tensor],
        stored: Stored,
        held: Mapping[str, Tensor],
        name: str,
    ) -> None:
        self._made, self._stored, self._held, self._name = made, stored, held, name
        self._entries = {made[entry.name].storage.key: entry for entry in reversed(entries)}
        self._images: list[tuple[int, FileImage]] = []
        self._work: dict[str, Work] = {}
        self._places: dict[object, Place] = {}
        self._end = 0
        self.tensors: dict[str, Tensor] = dict(held)

    def item(self, leaf: Leaf, kept_files: frozenset[str]) -> Item:
        """What `.metadata` says of an entry, which is written unless its files stay."""
        kept = leaf.kept
        if kept is not None and all(place.file in kept_files for place in kept.places):
            return kept
        node = leaf.node
        if not isinstance(node, Tensor):
            return BytesItem(self._written(node))
        spec = node.spec
        properties = kept.properties if isinstance(kept, TensorItem) else None
        bare = replace(node, requires_grad=False, parameter=False, attributes=None)
        view = (bare.storage.key, spec, bare.offset, bare.strides, bare.conj, bare.neg)
        if view not in self._places:
            self._places[view] = self._written(bare)
        start = (0,) * spec.ndim
        chunk = Chunk(start, spec.shape, self._places[view])
        return TensorItem(spec, properties or plain_properties(spec.dtype), (chunk,))

    def _written(self, node: object) -> Place:
        image = torch_zip.image(node, tag=None)
        number, begin = len(self._images), self._end + -self._end % ALIGNMENT
        entries = [self._entries[key] for key in image.slots if key in self._entries]
        work, tensors = torch_work(entries, self._made, image, self._stored, self._held, node)
        self.tensors |= tensors
        self._work |= {_ZIP_KEY.format(number=number, key=key): w for key, w in work.items()}
        self._images.append((begin, image))
        self._end = begin + image.size
        return Place(self._name, begin, image.size)

    def files(self) -> dict[str, OutputFile]:
        """The new data file, if there is one."""
        if not self._images:
            return {}
        return {self._name: OutputFile(_joined(self._images, self._end), self._work)}


def _joined(images: Sequence[tuple[int, FileImage]], size: int) -> FileImage:
    """Files one after the other as one; the slots of each under its number."""
    chunks: list[tuple[int, bytes]] = []
    slots: dict[str, Slot] = {}
    end = 0
    for number, (begin, image) in enumerate(images):
        if begin > end:
            chunks.append((end, bytes(begin - end)))
        chunks += [(begin + offset, raw) for offset, raw in image.chunks]
        for key, slot in image.slots.items():
            moved = Slot(begin + slot.offset, slot.nbytes)
            slots[_ZIP_KEY.format(number=number, key=key)] = moved
        end = begin + image.size

    def finish(crcs: Mapping[str, int]) -> tuple[tuple[int, bytes], ...]:
        found: list[tuple[int, bytes]] = []
        for number, (begin, image) in enumerate(images):
            filled = [key for key, slot in image.slots.items() if slot.nbytes]
            own = {key: crcs[_ZIP_KEY.format(number=number, key=key)] for key in filled}
            last = image.finish(own) if image.finish else ()
            found += [(begin + offset, raw) for offset, raw in last]
        return tuple(found)

    return FileImage(size, tuple(chunks), slots, finish)
