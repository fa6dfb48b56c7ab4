"""The change in place of a DCP folder: another `.metadata` and tag over the same chunks.

It is the output of a copy (`ckmigrate.output_dcp`) in which every chunk that is still used stays
where it is. What is new and small comes in one more data file; what would have to be moved is a
reason to refuse.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ckmigrate.errors import StorageError
from ckmigrate.execute.fill import read_expression
from ckmigrate.execute.patch import Patch, small_files
from ckmigrate.execute.source import SourceFile, open_source
from ckmigrate.expr import sources
from ckmigrate.formats.folder_names import METADATA
from ckmigrate.lower import Copy, FillRange
from ckmigrate.migrate import build_output
from ckmigrate.output import Output, OutputFile
from ckmigrate.places import MOST_NEW, folded_reason, needs_copy, unfit_file, why_moved
from ckmigrate.planning import Entry
from ckmigrate.prepare import Prepared

__all__ = ["dcp_obstacles", "dcp_output", "dcp_patch"]


def dcp_output(prepared: Prepared) -> Output:
    """The folder of a plan over the chunks that are there; StorageError as `build_output`."""
    return build_output(prepared, prepared.opened.stored.path, folder=True, in_place=True)


def dcp_obstacles(prepared: Prepared, output: Output | None = None) -> tuple[str, ...]:
    """Why a plan needs more than a change in place; tensors are not read."""
    if unfit := tuple(unfit_file(prepared)):
        return unfit
    try:
        output = output or dcp_output(prepared)
    except StorageError as error:
        return (error.what,)
    return (*_moved(prepared, output), *_large(output), *_left_behind(prepared, output))


def _moved(prepared: Prepared, output: Output) -> Iterator[str]:
    """Entries whose bytes are there, but not as chunks of their own."""
    written = {work.label for name in output.shards for work in output.files[name].work.values()}
    reasons: dict[str, list[str]] = {}
    for entry in prepared.plan.tensors:
        if entry.name in written and sources(entry.expr) and entry.spec.nbytes:
            reasons.setdefault(_why(entry), []).append(entry.name)
    for why, names in reasons.items():
        yield folded_reason(names, why)


def _why(entry: Entry) -> str:
    if not isinstance(entry.lowered, Copy):
        return why_moved(entry.expr)
    if any(isinstance(part, FillRange) for part in entry.lowered.ranges):
        return "are grown by a constant"
    return "need other chunks than there are"


def _large(output: Output) -> Iterator[str]:
    if sum(output.files[name].image.size for name in output.shards) > MOST_NEW:
        yield f"what is new has more than {MOST_NEW >> 20} MiB together"


def _left_behind(prepared: Prepared, output: Output) -> Iterator[str]:
    folder = prepared.opened.stored.folder
    assert folder is not None
    stay = {*output.carried, *output.files}
    for name in (*folder.shards, *folder.others):
        if name not in stay:
            yield f"{name} would go: nothing in it is used any more"


# --- the files --------------------------------------------------------------------------------


def dcp_patch(prepared: Prepared) -> Patch:
    """The change of a folder; MigrationError CKM580 where the plan needs more."""
    output = dcp_output(prepared)
    if reasons := dcp_obstacles(prepared, output):
        raise needs_copy(prepared, reasons)
    stored = prepared.opened.stored
    present = {str(f.path.relative_to(stored.path)): f.identity for f in stored.files}
    with open_source(stored, output.tensors) as source:
        contents = {name: _content(file, source) for name, file in output.files.items()}
    # The index last: what it names is there before.
    order = sorted(contents, key=lambda name: name == METADATA)
    files = small_files({name: contents[name] for name in order}, present)
    return Patch(files, spare=output.unused)


def _content(file: OutputFile, source: SourceFile) -> bytes:
    """All bytes of a small file."""
    raw, sums = bytearray(file.image.size), {}
    for key, slot in file.image.slots.items():
        data = read_expression(file.work[key].expr, source)
        raw[slot.offset : slot.offset + slot.nbytes] = data
        sums[key] = zlib.crc32(data)
    last = file.image.finish(sums) if file.image.finish else ()
    for offset, data in (*file.image.chunks, *last):
        raw[offset : offset + len(data)] = data
    return bytes(raw)
