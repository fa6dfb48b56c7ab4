"""Where the tensors of a plan lie in the checkpoint already, for a change that moves no tensor.

An entry that is one contiguous byte range of the old data has a place. A safetensors file has no
holes and no overlaps, so that there the places must cover the data exactly once. In a torch file a
tensor is a view of a storage: the places lie in one storage each, and what is dropped stays where
it is and belongs to nobody. Small tensors that are new are added behind the end of either.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ckmigrate.errors import MigrationError
from ckmigrate.execute.fill import read_expression
from ckmigrate.execute.source import open_source
from ckmigrate.expr import Cast, Concat, Expr, Random, Reshape, Source, View, sources, walk
from ckmigrate.fold import fold_names
from ckmigrate.formats.base import Record
from ckmigrate.formats.tree import Tensor
from ckmigrate.lower import Copy, FillRange, SourceRange
from ckmigrate.output import held_tensors, left_out
from ckmigrate.planning import Entry
from ckmigrate.prepare import Prepared

__all__ = [
    "MOST_NEW",
    "Place",
    "Places",
    "data_start",
    "find_places",
    "folded_reason",
    "needs_copy",
    "new_bytes",
    "unfit_file",
    "why_moved",
]

MOST_NEW: Final = 16 << 20
"""Bytes: more than that is no small change any more."""
_SMALL: Final = 256
"""Bytes: so much may be written a second time without a word."""
_SHARED: Final = "need a copy of their own: other entries have the same bytes"
_APART: Final = "are joined from parts that do not lie beside each other"
_NEW: Final = "are new"


@dataclass(frozen=True, slots=True)
class Place:
    """A byte range of the old checkpoint that is an entry of the new one as it stands.

    file    number of the file in `Stored.files`
    unit    what the range may not leave: of torch, the key of the storage
    begin   counted from the start of the file; of torch, of the storage
    """

    file: int
    unit: str
    begin: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.begin + self.nbytes


@dataclass(frozen=True, slots=True)
class Places:
    """What a change in place needs to know of a plan.

    found      the place of every entry that has one; tied entries have the same
    new        names of entries that are added, because they are new or have to be there twice
    obstacles  why the plan needs more than a change in place, a line for each reason
    """

    found: Mapping[str, Place]
    new: tuple[str, ...]
    obstacles: tuple[str, ...]


def find_places(prepared: Prepared) -> Places:
    """The places of a plan's entries; nothing is read."""
    plan, stored = prepared.plan, prepared.opened.stored
    if unfit := tuple(unfit_file(prepared)):
        return Places({}, (), unfit)
    tensors = held_tensors(plan, prepared.opened.layout)
    held = _Held(tensors, stored.records, _first_of_torch(prepared))
    reasons: dict[str, list[str]] = {}
    found: dict[str, Place] = {}
    new: list[Entry] = []
    tied = plan.owners
    for entry in plan.tensors:
        owner = tied.get(entry.name, entry.name)
        place = found.get(owner) or held.place(entry)
        if isinstance(place, Place):
            found[entry.name] = place
        elif place == _NEW and held.can_add:
            new.append(entry)
        else:
            reasons.setdefault(place, []).append(entry.name)
    doubles = frozenset(_small_doubles(prepared, held, found))
    new += [entry for entry in plan.tensors if entry.name in doubles]
    found = {name: place for name, place in found.items() if name not in doubles}
    if sum(entry.spec.nbytes for entry in new) > MOST_NEW:
        large = f"are new, and have more than {MOST_NEW >> 20} MiB together"
        reasons.setdefault(large, []).extend(entry.name for entry in new)
    lines = []
    for why, names in (*reasons.items(), *_uncovered(prepared, held, found, reasons)):
        lines.append(folded_reason(names, why))
    return Places(found, tuple(entry.name for entry in new), tuple(lines))


def _small_doubles(prepared: Prepared, held: _Held, found: Mapping[str, Place]) -> Iterator[str]:
    """Training state of a few bytes that has to be there twice, such as the step counter of a
    parameter that became several: in a torch file it is written once more."""
    state = {entry.name for entry in prepared.plan.state} if held.can_add else frozenset()
    for name in _overlaps(prepared, held, found) if state else ():
        place = found[name]
        if name in state and place.nbytes <= _SMALL and place.file >= held.first_of_torch:
            yield name


def _first_of_torch(prepared: Prepared) -> int:
    """The number of the first file in torch's format: of a folder of safetensors files, that of
    what is beside the shards."""
    stored = prepared.opened.stored
    if stored.folder is not None and stored.folder.container == "safetensors":
        return len(stored.folder.shards)
    return 0 if stored.format != "safetensors" else 1


def needs_copy(prepared: Prepared, lines: Sequence[str]) -> MigrationError:
    """CKM580: why a plan cannot be a change in place."""
    return MigrationError(
        "CKM580",
        "--fast cannot do this: the plan needs more than new names and headers",
        where=str(prepared.opened.stored.path),
        details=tuple(lines),
        why="--fast changes what a file says about its tensors and leaves their bytes where they "
        "are. Nothing was changed.",
        fix="Leave --fast out: --in-place alone writes a new file and keeps the old one.",
    )


def new_bytes(prepared: Prepared, places: Places) -> dict[str, bytes]:
    """The bytes of the entries that are added, by name."""
    names, held = frozenset(places.new), held_tensors(prepared.plan, prepared.opened.layout)
    with open_source(prepared.opened.stored, held) as source:
        new = (entry for entry in prepared.plan.tensors if entry.name in names)
        return {entry.name: read_expression(entry.expr, source) for entry in new}


def unfit_file(prepared: Prepared) -> Iterator[str]:
    """Why nothing could be changed in place, whatever the plan is."""
    stored, request = prepared.opened.stored, prepared.request
    if stored.details.get("container") == "legacy":
        yield "the file is of torch before 1.6, whose format has no directory to change"
    if request.max_shard_size is not None or request.to_format is not None:
        yield "--max-shard-size and --to-format make a new layout"


def folded_reason(names: Sequence[str], why: str) -> str:
    """ "12 entries are joined along dim 1: layers.{0…11}.qkv.weight"."""
    folded = fold_names(names)
    more = f", … {len(folded) - 3} more" if len(folded) > 3 else ""
    count = f"{len(names)} entries" if len(names) != 1 else "1 entry"
    shown = why if len(names) != 1 else _singular(why)
    return f"{count} {shown}: {', '.join(folded[:3])}{more}"


def _singular(why: str) -> str:
    verb, _, rest = why.partition(" ")
    verbs = {"are": "is", "need": "needs", "have": "has", "take": "takes", "leave": "leaves"}
    return f"{verbs.get(verb, verb)} {rest.replace('their ', 'its ')}"


# --- one entry --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """The tensors of the old checkpoint and where they are; files from number `first_of_torch` on
    are in torch's format."""

    tensors: Mapping[str, Tensor]
    records: Mapping[str, Record]
    first_of_torch: int

    def is_torch(self, name: str) -> bool:
        """Whether a tensor is in a file of torch's format."""
        return self.records[self.tensors[name].storage.key].file >= self.first_of_torch

    @property
    def can_add(self) -> bool:
        """New records are little-endian, and a torch file has one byte order."""
        return not any(record.big_endian for record in self.records.values())

    def place(self, entry: Entry) -> Place | str:
        """The place of an entry, or why it has none."""
        if isinstance(entry.expr, Source) and self.is_torch(entry.expr.name):
            return self.whole(entry.expr.name)
        if not sources(entry.expr):
            return _NEW
        if not entry.spec.nbytes:
            first = self.whole(next(iter(sources(entry.expr))))
            return Place(first.file, first.unit, first.begin, 0)
        if not isinstance(entry.lowered, Copy):
            return why_moved(entry.expr)
        parts = [self._part(item) for item in entry.lowered.ranges]
        return self._joined(entry, parts)

    def _joined(self, entry: Entry, parts: Sequence[Place | None]) -> Place | str:
        first = parts[0]
        end = first.begin if first else 0
        for part in parts:
            if part is None or first is None:
                return "are grown by a constant"
            if part.file != first.file:
                return "are joined from several files"
            if part.unit != first.unit or part.begin != end:
                return why_moved(entry.expr)
            end = part.end
        assert first is not None
        return Place(first.file, first.unit, first.begin, end - first.begin)

    def _part(self, item: SourceRange | FillRange) -> Place | None:
        if isinstance(item, FillRange):
            return None
        whole = self.whole(item.name)
        return Place(whole.file, whole.unit, whole.begin + item.start, item.nbytes)

    def whole(self, name: str) -> Place:
        """A tensor; of one that is not in order, only where it begins means something."""
        tensor = self.tensors[name]
        record = self.records[tensor.storage.key]
        begin = tensor.offset * tensor.spec.dtype.bits // 8
        if self.is_torch(name):
            return Place(record.file, tensor.storage.key, begin, tensor.spec.nbytes)
        return Place(record.file, "", record.offset + begin, tensor.spec.nbytes)


def why_moved(expr: Expr) -> str:
    """What is done to an entry that has no place."""
    while isinstance(expr, Reshape):
        expr = expr.base
    if any(isinstance(node, Random) for node in walk(expr)):
        return "are new in part"
    if isinstance(expr, Cast):
        return "are cast"
    if isinstance(expr, Concat):
        return f"are joined along dim {expr.dim}" if expr.dim else _APART
    if isinstance(expr, View):
        return "take their elements in another order, or not from one place"
    if isinstance(expr, Source):
        return "do not lie in order in the file"
    return "are computed"


# --- all entries of a file --------------------------------------------------------------------


def data_start(prepared: Prepared, file: int) -> int:
    """Where the data of a safetensors file begins."""
    records = prepared.opened.stored.records.values()
    begins = [record.offset for record in records if record.file == file]
    return min(begins, default=int(prepared.opened.stored.details.get("data offset", 0)))


def _uncovered(
    prepared: Prepared, held: _Held, found: Mapping[str, Place], reasons: Mapping[str, object]
) -> Iterator[tuple[str, list[str]]]:
    """What the places do to each other: bytes with two owners, and where it matters with none."""
    unwritten = left_out(prepared.plan, prepared.opened.stored)
    placed = {name: place for name, place in found.items() if name not in unwritten}
    shared = _overlaps(prepared, held, placed)
    if shared:
        yield _SHARED, shared
    if not reasons and (lost := list(_lost(held, placed))):
        yield "leave bytes behind, and a safetensors file has no holes", lost


def _overlaps(prepared: Prepared, held: _Held, placed: Mapping[str, Place]) -> list[str]:
    """Entries on bytes that an earlier one has too. In a torch file tied ones share them rightly,
    and so do different views that were in one storage before."""
    tied = prepared.plan.owners
    whole = {
        e.name: e.expr.name
        for e in prepared.plan.tensors
        if e.name in placed and isinstance(e.expr, Source) and held.is_torch(e.expr.name)
    }
    order = sorted(placed.items(), key=lambda item: (item[1].file, item[1].unit, item[1].begin))
    shared = list(_copies(whole, tied))
    last, end = "", (-1, "", 0)
    for name, place in order:
        if not place.nbytes:
            continue
        if end[:2] == (place.file, place.unit) and place.begin < end[2]:
            same = tied.get(name, name) == tied.get(last, last)
            views = name in whole and last in whole and whole[name] != whole[last]
            is_torch = place.file >= held.first_of_torch
            if not (is_torch and (same or views)) and name not in shared:
                shared.append(name)
        if end[:2] != (place.file, place.unit) or place.end > end[2]:
            last, end = name, (place.file, place.unit, place.end)
    return shared


def _copies(whole: Mapping[str, str], tied: Mapping[str, str]) -> Iterator[str]:
    """Entries that are a whole tensor of which another entry, not tied to them, is one too."""
    owners: dict[str, str] = {}
    for name, old in whole.items():
        group = tied.get(name, name)
        if owners.setdefault(old, group) != group:
            yield name


def _lost(held: _Held, placed: Mapping[str, Place]) -> Iterator[str]:
    """Old names in safetensors files of which some bytes would belong to nobody."""
    kept: dict[int, list[tuple[int, int]]] = {}
    for place in sorted(placed.values(), key=lambda place: (place.file, place.begin)):
        spans = kept.setdefault(place.file, [])
        if spans and spans[-1][1] >= place.begin:
            spans[-1] = (spans[-1][0], max(spans[-1][1], place.end))
        else:
            spans.append((place.begin, place.end))
    for name in held.tensors:
        if held.is_torch(name):
            continue
        old = held.whole(name)
        spans = kept.get(old.file, [])
        index = bisect_right(spans, old.begin, key=lambda span: span[0]) - 1
        if old.nbytes and (index < 0 or spans[index][1] < old.end):
            yield name
