"""The change in place of a safetensors file: a header over data that stays where it is."""

from __future__ import annotations

import os

from ckmigrate.execute.patch import FilePatch, Patch
from ckmigrate.formats import safetensors
from ckmigrate.formats.base import BLOCK
from ckmigrate.migrate import build_output
from ckmigrate.output import OutputFile
from ckmigrate.places import Places, data_start, new_bytes
from ckmigrate.prepare import Prepared

__all__ = ["header_patch", "safetensors_patch"]


def safetensors_patch(prepared: Prepared, places: Places) -> Patch:
    """The change of a checkpoint that is one file; StorageError as `build_output` raises."""
    file = build_output(prepared, prepared.opened.stored.path).files[""]
    return Patch((header_patch(prepared, places, 0, "", file),))


def header_patch(
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
    block = max(BLOCK, os.statvfs(part.path).f_frsize)
    raw = safetensors.header_over(file.image, begins, start=start, block=block)
    insert, data = len(raw) - start, b"".join(data for _, data in added.values())
    writes = ((0, raw), *([(end + insert, data)] if data else []))
    return FilePatch(name, part.identity, end + insert + len(data), writes, insert)


def _added_data(
    prepared: Prepared, places: Places, file: OutputFile
) -> dict[str, tuple[int, bytes]]:
    """The new tensors of a file by key: where they lie behind its end, and their bytes."""
    made = new_bytes(prepared, places)
    wanted = {key: made[work.label] for key, work in file.work.items() if work.label in made}
    bits = {key: file.work[key].expr.spec.dtype.bits for key in wanted}
    added: dict[str, tuple[int, bytes]] = {}
    offset = 0
    # By falling item size, so that each begins at a multiple of its own if the first does.
    for key in sorted(wanted, key=lambda key: -bits[key]):
        added[key] = (offset, wanted[key])
        offset += len(wanted[key])
    return added
