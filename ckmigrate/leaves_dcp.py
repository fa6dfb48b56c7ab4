"""What a DCP folder will consist of, and which of it are chunks that are there already.

A tensor that only changes its name keeps its chunks. So does one whose bytes are whole chunks of
old tensors one after the other: rows that were saved apart may be parted or joined there. A chunk
belongs to one tensor, or to several that are the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ckmigrate.errors import StorageError
from ckmigrate.expr import sources
from ckmigrate.formats.base import Stored
from ckmigrate.formats.dcp_metadata import Chunk, DcpMetadata, Item, Place, TensorItem
from ckmigrate.formats.dcp_tree import leaves_of
from ckmigrate.formats.torch_tag import TAG_KEY
from ckmigrate.formats.tree import Object, Tensor
from ckmigrate.formats.tree_paths import Path, child
from ckmigrate.lower import Copy, FillRange, SourceRange
from ckmigrate.planning import Entry
from ckmigrate.spec import TensorSpec

__all__ = ["Leaf", "find_leaves"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One entry of the result.

    entry  of the plan, for a tensor that it makes
    kept   what `.metadata` says of it, where all its bytes are chunks of the source
    """

    name: str
    path: Path
    node: object
    entry: Entry | None = None
    kept: Item | None = None


def find_leaves(
    result: object,
    old: DcpMetadata,
    stored: Stored,
    tensors: Mapping[str, Tensor],
    entries: Mapping[int, Entry],
) -> tuple[Leaf, ...]:
    """The leaves of a result.

    tensors  the sources by name
    entries  of the plan, by the id of the new tensor in the result

    StorageError CKM735 where two of them would have one name.
    """
    known = _Known(old, stored, tensors)
    leaves = tuple(_leaves(result, known, entries))
    _require_distinct(leaves)
    return tuple(_with_whole_chunks(leaves, known)) if stored.dcp else leaves


def _leaves(result: object, known: _Known, entries: Mapping[int, Entry]) -> Iterator[Leaf]:
    for path, node in leaves_of(result, known.whole):
        entry = entries.get(id(node))
        if entry is None:
            name = known.same(path, node)
        elif entry.is_unchanged:
            (source,) = sources(entry.expr)
            name = known.of_source(source)
        else:
            name = None
        kept = None if name is None else known.items[name]
        own = name if name is not None and known.paths[name] == path else None
        yield Leaf(own or ".".join(map(str, path)), path, node, entry, kept)


class _Known:
    """What the source has at its paths; nothing where it is no DCP folder.

    whole  nodes that were one entry, by path
    """

    def __init__(self, old: DcpMetadata, stored: Stored, tensors: Mapping[str, Tensor]) -> None:
        self.items, self.paths = old.items, old.paths
        # The tag is no part of the tree, and is written anew.
        self._names = {path: name for name, path in old.paths.items() if path != (TAG_KEY,)}
        self.whole = {path: child(stored.tree, path) for path in self._names}
        # Numbers and texts are one object wherever they stand; these are not.
        self._by_id = {
            id(node): self._names[path]
            for path, node in self.whole.items()
            if isinstance(node, Tensor | Object | dict | list)
        }
        self._tensors = tensors

    def same(self, path: Path, node: object) -> str | None:
        """The name of the entry that this node was, there or elsewhere."""
        if path in self.whole and self.whole[path] is node:
            return self._names[path]
        return self._by_id.get(id(node))

    def of_source(self, source: str) -> str | None:
        """The name of the entry that a source of the plan is."""
        return self._by_id.get(id(self._tensors[source]))

    def tensor(self, source: str) -> TensorItem | None:
        """What is known of a source of the plan that is an entry of its own."""
        item = self.items.get(self.of_source(source) or "")
        return item if isinstance(item, TensorItem) else None


def _require_distinct(leaves: Sequence[Leaf]) -> None:
    name, count = Counter(leaf.name for leaf in leaves).most_common(1)[0] if leaves else ("", 0)
    if count > 1:
        what = f"two entries of the new checkpoint are named {name!r}"
        raise StorageError("CKM735", what, fix="rename one of them in a migration")


# --- parts that were saved apart --------------------------------------------------------------


def _with_whole_chunks(leaves: Iterable[Leaf], known: _Known) -> Iterator[Leaf]:
    """The leaves, with the chunks of those that consist of such as no other tensor has."""
    leaves = tuple(leaves)
    owners: dict[Place, object] = {}
    for leaf in leaves:
        if leaf.kept is not None:
            owners |= dict.fromkeys(leaf.kept.places, _claim(leaf.kept))
    for leaf in leaves:
        item = None if leaf.kept or not leaf.entry else _joined(leaf.entry, known)
        if item is not None and _is_free(item, owners):
            owners |= dict.fromkeys(item.places, _claim(item))
            yield replace(leaf, kept=item)
        else:
            yield leaf


def _is_free(item: TensorItem, owners: Mapping[Place, object]) -> bool:
    distinct = len(set(item.places)) == len(item.places)
    claim = _claim(item)
    return distinct and all(owners.get(place, claim) == claim for place in item.places)


def _claim(item: Item) -> object:
    """What two owners of a chunk must agree on."""
    return (item.spec, item.chunks) if isinstance(item, TensorItem) else item


def _joined(entry: Entry, known: _Known) -> TensorItem | None:
    """The tensor out of chunks of rows, if its bytes are whole ones."""
    ranges = entry.lowered.ranges if isinstance(entry.lowered, Copy) else ()
    found: list[Chunk] = []
    properties, row = None, 0
    for part in ranges:
        if isinstance(part, FillRange):
            return None
        item = known.tensor(part.name)
        chunks = _rows(part, item, entry.spec) if item else ()
        if item is None or not chunks:
            return None
        properties = properties or item.properties
        for chunk in chunks:
            found.append(replace(chunk, offsets=(row, *chunk.offsets[1:])))
            row += chunk.sizes[0]
    return TensorItem(entry.spec, properties, tuple(found)) if found else None


def _rows(part: SourceRange, item: TensorItem, spec: TensorSpec) -> Sequence[Chunk]:
    """The chunks of a tensor that a range of its bytes is, in order; none where it is not whole
    ones, or where their rows are not those of `spec`."""
    if not spec.ndim or item.spec.dtype != spec.dtype:
        return ()
    row = math.prod(spec.shape[1:]) * spec.dtype.bits
    begin, end = part.start * 8, (part.start + part.nbytes) * 8
    inside = [
        chunk
        for chunk in sorted(item.chunks, key=lambda chunk: chunk.offsets)
        if chunk.sizes[1:] == spec.shape[1:] == item.spec.shape[1:]
        and begin <= chunk.offsets[0] * row
        and (chunk.offsets[0] + chunk.sizes[0]) * row <= end
        and chunk.sizes[0]
    ]
    whole = sum(chunk.sizes[0] for chunk in inside) * row == end - begin
    return inside if whole else ()
