"""Where the bytes of a result stand best: beside their old neighbours, so that ranges merge, and in
the same place within a block, so that file systems can share blocks with the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ckmigrate.formats import safetensors
from ckmigrate.formats.base import BLOCK, FileImage, Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.lower import Copy, SourceRange
from ckmigrate.planning import Entry

__all__ = ["safetensors_image", "torch_phases"]

_SHARED_FROM: Final = 1 << 16
"""Bytes: smaller storages are not worth the padding that sharing their blocks takes."""
_MOST_RANGES: Final = 64


def safetensors_image(
    entries: Sequence[Entry],
    stored: Stored,
    tensors: Mapping[str, Tensor],
    *,
    prefix: str,
    metadata: Mapping[str, str],
    tag: str,
) -> FileImage:
    """The file of these entries, whose names get the prefix; `tensors` are the sources by name.

    The data lies in the order of the source, and begins where most of it keeps its place."""
    ordered = sorted(entries, key=lambda entry: _place(entry, stored, tensors))
    specs = [(prefix + entry.name, entry.spec) for entry in ordered]
    image = safetensors.image(specs, metadata=metadata, tag=tag)
    shifts: Counter[int] = Counter()
    for entry in ordered:
        offset = image.slots[prefix + entry.name].offset
        for start, at, nbytes in _ranges(entry, stored, tensors):
            shifts[(start - offset - at) % BLOCK] += nbytes
    shift = max(shifts, key=lambda found: (shifts[found], -found), default=0)
    if not shift:
        return image
    begin = min(slot.offset for slot in image.slots.values())
    return safetensors.image(specs, metadata=metadata, tag=tag, phase=(begin + shift) % BLOCK)


def torch_phases(
    entries: Sequence[Entry],
    made: Mapping[str, Tensor],
    stored: Stored,
    tensors: Mapping[str, Tensor],
) -> dict[str, int]:
    """Where the bytes of each large storage begin in the source, modulo a block, by key.

    made     the tensors of the result by name
    tensors  the sources by name
    """
    records = stored.records.items()
    found = {key: record.offset for key, record in records if record.nbytes >= _SHARED_FROM}
    for entry in entries:
        storage = made[entry.name].storage
        if storage.nbytes >= _SHARED_FROM:
            for start, _, _ in _ranges(entry, stored, tensors):
                found.setdefault(storage.key, start)
    return {key: start % BLOCK for key, start in found.items()}


def _ranges(
    entry: Entry, stored: Stored, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[int, int, int]]:
    """What is copied to an entry: offset in the source's file, offset in the entry, bytes."""
    at = 0
    for part in entry.lowered.ranges[:_MOST_RANGES] if isinstance(entry.lowered, Copy) else ():
        if isinstance(part, SourceRange):
            yield _offset(tensors[part.name], stored) + part.start, at, part.nbytes
        at += part.nbytes


def _place(entry: Entry, stored: Stored, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The file and the offset that an entry begins with; what is made stands behind the rest."""
    ranges = entry.lowered.ranges if isinstance(entry.lowered, Copy) else ()
    first = next((part for part in ranges if isinstance(part, SourceRange)), None)
    if first is None:
        return len(stored.files), 0
    tensor = tensors[first.name]
    file = stored.records[tensor.storage.key].file
    return file, _offset(tensor, stored) + first.start


def _offset(tensor: Tensor, stored: Stored) -> int:
    inside = tensor.offset * tensor.spec.dtype.bits // 8
    return stored.records[tensor.storage.key].offset + inside
