"""The file that a plan becomes: its bytes around the tensors, and the work that fills each slot.

A folder of several files is made by `ckmigrate.output_folder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from ckmigrate.contents import Contents
from ckmigrate.errors import StorageError
from ckmigrate.execute.fill import Work
from ckmigrate.formats import safetensors
from ckmigrate.formats.base import FileImage, Format, Stored
from ckmigrate.formats.folder_names import JSON_ROOTS
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, child, entries_of, steps
from ckmigrate.placement import safetensors_image
from ckmigrate.planning import Plan
from ckmigrate.training.layouts import Layout

__all__ = [
    "Output",
    "OutputFile",
    "becomes_folder",
    "edited_beside",
    "folder_format",
    "format_of",
    "held_tensors",
    "is_file_name",
    "left_out",
    "lost_beside_weights",
    "make_output",
    "string_metadata",
    "would_lose",
]

_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
}


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to be written, and the work that fills each of its slots."""

    image: FileImage
    work: Mapping[str, Work] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """A checkpoint to be written.

    files    by relative name; the only one of a checkpoint that is a file has the name ""
    tensors  the sources by name, those of passed-through storages included
    shards   of a folder: the names of those files that hold tensors
    index    of a folder: the name of its index, if it has one
    carried  of a folder: files of the source folder that come along, by relative name
    empty    of a folder: folders without files that come along
    replaced of a DCP folder: data files of the source that do not come along
    unused   of a DCP folder: bytes of the source's chunks that nothing names any more
    interim  of a DCP folder: the tag's file, by name, as it is right for the old index and the new
    """

    format: Format
    files: Mapping[str, OutputFile]
    tensors: Mapping[str, Tensor]
    shards: tuple[str, ...] = ()
    index: str | None = None
    carried: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    interim: Mapping[str, bytes] = field(default_factory=dict)
    unused: int = 0

    @property
    def is_folder(self) -> bool:
        return self.format in ("sharded", "dcp")

    @property
    def size(self) -> int:
        """Bytes of all files that are written anew."""
        return sum(file.image.size for file in self.files.values())


def format_of(path: FilePath, default: Format) -> Format:
    """The format that an output name asks for; the source's own where the name says nothing."""
    return _SUFFIXES.get(path.suffix.lower(), default)


def is_file_name(path: FilePath) -> bool:
    """Whether a name ends as those of checkpoint files do."""
    return path.suffix.lower() in _SUFFIXES


def folder_format(stored: Stored, wanted: str | None, max_shard_size: int | None) -> Format:
    """The format of a result that is a folder: what is asked for, else what the source is, unless
    shards of a size are asked for."""
    if wanted == "dcp":
        return "dcp"
    return "dcp" if stored.format == "dcp" and max_shard_size is None else "sharded"


def becomes_folder(path: FilePath, *, source_is_folder: bool, in_place: bool, wanted: bool) -> bool:
    """Whether the result is a folder: where that is asked for, and otherwise where the source is
    one and the name of the output is not that of a file."""
    keeps = source_is_folder and (in_place or not is_file_name(path))
    return wanted or keeps


def make_output(contents: Contents, format: Format) -> Output:  # noqa: A002 - the domain's word
    """The output file of these contents.

    StorageError CKM740 where something besides the weights would be lost without weights_only.
    """
    if format == "safetensors":
        return _safetensors(contents)
    from ckmigrate.output_torch import torch_output

    return torch_output(contents)


def _safetensors(contents: Contents) -> Output:
    plan, stored, layout = contents.plan, contents.stored, contents.layout
    lost = [] if contents.weights_only else lost_beside_weights(contents)
    if lost:
        raise would_lose(stored, lost, "a safetensors file holds tensors and short texts only")
    prefix, tied = contents.prefix, left_out(plan, stored)
    entries = [entry for entry in plan.entries if entry.name not in tied]
    metadata = string_metadata(stored, contents.tree)
    metadata |= {prefix + name: prefix + kept for name, kept in tied.items()}
    image = safetensors_image(
        entries, stored, layout.entries, prefix=prefix, metadata=metadata, tag=contents.tag
    )
    work = {prefix + e.name: Work(e.name, e.expr, e.lowered) for e in entries}
    ordered = sorted(work, key=lambda key: image.slots[key].offset)
    file = OutputFile(image, {key: work[key] for key in ordered})
    return Output("safetensors", {"": file}, layout.entries)


def left_out(plan: Plan, stored: Stored) -> dict[str, str]:
    """Tied names that are not written, by the name that is: whoever stored one of several loads by
    a function that expects just that."""
    leaves_out = safetensors.TIED in stored.details
    return {name: group[0] for group in plan.ties if leaves_out for name in group[1:]}


def string_metadata(stored: Stored, tree: object) -> dict[str, str]:
    """The metadata of a safetensors file; `Meta` has kept its pairs to texts."""
    if not stored.is_flat or (stored.folder and stored.folder.container == "torch"):
        return {"format": "pt"}
    pairs = (entries_of(tree) or {}).items()
    return {str(key): value for key, value in pairs if isinstance(value, str)}


def lost_beside_weights(contents: Contents) -> list[str]:
    """What a file of tensors alone has no place for, in words."""
    layout = contents.layout
    if contents.stored.is_flat:
        return edited_beside(contents.stored, contents.tree)
    found = [f"'{name}' in the state dict" for name in layout.extras]
    for depth, key in enumerate(layout.path):
        above = layout.path[:depth]
        others = [
            (*above, other) for other, _ in steps(child(contents.tree, above)) if other != key
        ]
        found += [f"'{_dotted(path)}'" for path in others if path not in contents.gone]
    return found


def edited_beside(stored: Stored, tree: object) -> list[str]:
    """What the migration changes in files beside shards, which a single file cannot hold."""
    found = entries_of(tree) or {}
    edited = (key for key in JSON_ROOTS if found.get(key) != stored.metadata.get(key))
    return [f"'{key}', which the migration edits" for key in edited] if stored.folder else []


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def would_lose(stored: Stored, lost: Sequence[str], why: str) -> StorageError:
    return StorageError(
        "CKM740",
        f"{len(lost)} entries of {stored.path.name} would be lost",
        where=str(stored.path),
        details=tuple(lost[:10]) + ((f"… {len(lost) - 10} more",) if len(lost) > 10 else ()),
        why=f"They are no tensors of the model, and {why}.",
        fix=f"Write {_keeper(stored)} to keep them, or say --weights-only to leave them behind.",
    )


def _keeper(stored: Stored) -> str:
    """What has a place for all that a checkpoint holds."""
    if not stored.is_flat:
        return "a .pt file"
    return "a folder (-o NAME/)" if stored.folder else "a .safetensors file"


def held_tensors(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """The tensors that a plan's expressions read, by name and by label."""
    return {**layout.entries, **plan.carried.sources}
