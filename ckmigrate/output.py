"""The file that a plan becomes: its bytes around the tensors, and the work that fills each slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.execute.fill import Work
from ckmigrate.execute.source import is_plain
from ckmigrate.expr import Source, row_major, sources
from ckmigrate.formats import safetensors, torch_zip
from ckmigrate.formats.base import FileImage, Format, Stored
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.tree_paths import entries_of, holders
from ckmigrate.lower import lower
from ckmigrate.plan import Entry, Plan
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.layouts import Layout, replace_weights

__all__ = ["Output", "format_of", "make_output"]

_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
    ".bin": "torch",
}


@dataclass(frozen=True, slots=True)
class Output:
    """`tensors` are the sources by name, those of passed-through storages included."""

    format: Format
    image: FileImage
    work: Mapping[str, Work]
    tensors: Mapping[str, Tensor]


def format_of(path: Path, default: Format) -> Format:
    """The format that an output name asks for; the source's own where the name says nothing."""
    return _SUFFIXES.get(path.suffix.lower(), default)


def make_output(
    plan: Plan,
    stored: Stored,
    layout: Layout,
    tree: object,
    *,
    format: Format,  # noqa: A002 - the word of the domain
    tag: str,
    unwrap: bool,
    weights_only: bool,
) -> Output:
    """The output file of a plan.

    tree          the source's tree after edits of its metadata
    unwrap        write bare names
    weights_only  leave everything but the weights behind

    StorageError CKM740 where something besides the weights would be lost without weights_only.
    """
    prefix = "" if unwrap else layout.prefix
    if format == "safetensors":
        return _safetensors(plan, stored, layout, tree, tag, prefix, weights_only)
    return _torch(plan, stored, layout, tree, tag, unwrap, prefix, weights_only)


def _safetensors(
    plan: Plan,
    stored: Stored,
    layout: Layout,
    tree: object,
    tag: str,
    prefix: str,
    weights_only: bool,
) -> Output:
    lost = [] if weights_only else _lost_beside_weights(stored, layout, tree)
    if lost:
        raise _would_lose(stored, lost, "a safetensors file holds tensors and short texts only")
    specs = [(prefix + entry.name, entry.spec) for entry in plan.entries]
    metadata = _string_metadata(stored, tree)
    image = safetensors.image(specs, metadata=metadata, tag=tag)
    work = {prefix + e.name: Work(e.name, e.expr, e.lowered) for e in plan.entries}
    ordered = sorted(work, key=lambda key: image.slots[key].offset)
    return Output("safetensors", image, {key: work[key] for key in ordered}, layout.entries)


def _string_metadata(stored: Stored, tree: object) -> dict[str, str]:
    if stored.format != "safetensors":
        return {"format": "pt"}
    import json

    pairs = entries_of(tree) or {}
    return {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in pairs.items()
        if not isinstance(value, Tensor)
    }


def _lost_beside_weights(stored: Stored, layout: Layout, tree: object) -> list[str]:
    if stored.format == "safetensors":
        return []
    found = [f"'{name}' in the state dict" for name in layout.extras]
    node = tree
    for key in layout.path:
        content = entries_of(node) or {}
        found += [f"'{other}'" for other in content if other != key]
        node = content.get(key)
    return found


def _would_lose(stored: Stored, lost: Sequence[str], why: str) -> StorageError:
    return StorageError(
        "CKM740",
        f"{len(lost)} entries of {stored.path.name} would be lost",
        where=str(stored.path),
        details=tuple(lost[:10]) + ((f"… {len(lost) - 10} more",) if len(lost) > 10 else ()),
        why=f"They are no tensors of the model, and {why}.",
        fix="Write a .pt file to keep them, or say --weights-only to leave them behind.",
    )


def _torch(
    plan: Plan,
    stored: Stored,
    layout: Layout,
    tree: object,
    tag: str,
    unwrap: bool,
    prefix: str,
    weights_only: bool,
) -> Output:
    made = _new_tensors(plan, layout)
    new = [(entry.name, made[entry.name]) for entry in plan.entries]
    if stored.format == "safetensors" or weights_only:
        lost = [] if weights_only else _lost_metadata(tree)
        if lost:
            raise _would_lose(stored, lost, "a plain state dict has no place for them")
        result: object = {prefix + name: tensor for name, tensor in new}
        nested = False
    else:
        result = replace_weights(tree, layout, new, moves=plan.moves, unwrap=unwrap)
        nested = bool(layout.path)
    image = torch_zip.image(result, tag=tag, tag_as="key" if nested else "record")
    work, tensors = _torch_work(plan.entries, made, image, stored, layout, result)
    return Output("torch", image, work, tensors)


def _lost_metadata(tree: object) -> list[str]:
    return [
        f"metadata '{key}'"
        for key, value in (entries_of(tree) or {}).items()
        if not isinstance(value, Tensor) and key != "format"
    ]


def _new_tensors(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """A tensor of its own storage for every entry; tied entries share one."""
    first = {name: group[0] for group in plan.ties for name in group}
    storages: dict[str, Storage] = {}
    made: dict[str, Tensor] = {}
    for entry in plan.entries:
        owner = first.get(entry.name, entry.name)
        origin = next((layout.entries[name] for name in sources(entry.expr)), None)
        if owner not in storages:
            device = origin.storage.device if origin else "cpu"
            storages[owner] = Storage(
                f"weight {owner}", entry.spec.dtype, entry.spec.nbytes, device
            )
        like = origin if entry.is_unchanged else None
        made[entry.name] = Tensor(
            storages[owner],
            entry.spec,
            0,
            _contiguous(entry.spec.shape),
            requires_grad=bool(like and like.requires_grad),
            parameter=bool(like and like.parameter),
        )
    return made


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _torch_work(
    entries: Sequence[Entry],
    made: Mapping[str, Tensor],
    image: FileImage,
    stored: Stored,
    layout: Layout,
    tree: object,
) -> tuple[dict[str, Work], dict[str, Tensor]]:
    work: dict[str, Work] = {}
    tensors = dict(layout.entries)
    for entry in entries:
        key = made[entry.name].storage.key
        work.setdefault(key, Work(entry.name, entry.expr, entry.lowered))
    for key in image.slots:
        if key not in work:
            name, tensor = _whole_storage(key, stored, tree)
            tensors[name] = tensor
            plain = is_plain(tensor, stored.records[key])
            source = Source(name, tensor.spec)
            work[key] = Work(name, source, lower(source, lambda _, ok=plain: ok))  # type: ignore[misc]
    return {key: work[key] for key in image.slots}, tensors


def _whole_storage(key: str, stored: Stored, tree: object) -> tuple[str, Tensor]:
    """A storage that passes through, as a tensor of its own element type."""
    storage = next(s for s in _storages(tree) if s.key == key)
    dtype = storage.dtype if storage.dtype.bits >= 8 else DType.U8
    spec = TensorSpec(dtype, (storage.nbytes * 8 // dtype.bits,))
    return f"storage {key} beside the weights", Tensor(storage, spec, 0, row_major(spec.shape))


def _storages(tree: object) -> list[Storage]:
    found: dict[int, Storage] = {}

    def note(node: object) -> bool:
        if isinstance(node, Tensor):
            found[id(node.storage)] = node.storage
        return False

    holders(tree, note)
    return list(found.values())
