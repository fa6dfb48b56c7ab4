"""The file of torch.save that a plan becomes: its tree, its storages, and what fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckmigrate.contents import Contents
from ckmigrate.execute.fill import Work
from ckmigrate.execute.source import is_plain
from ckmigrate.expr import Expr, Source, sources
from ckmigrate.formats import torch_zip
from ckmigrate.formats.base import FileImage, Stored
from ckmigrate.formats.pickle_limits import content
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.tree_paths import child, entries_of, put
from ckmigrate.lower import lower
from ckmigrate.output import Output, OutputFile, edited_beside, held_tensors, would_lose
from ckmigrate.placement import torch_phases
from ckmigrate.planning import Entry
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.layouts import drop_outside, replace_weights

__all__ = ["is_nested", "new_tensors", "result_tree", "torch_output", "torch_work", "unused_prefix"]


def torch_output(contents: Contents) -> Output:
    """The file of torch.save of these contents; errors are those of `make_output`."""
    plan, stored = contents.plan, contents.stored
    made = new_tensors(contents)
    result = result_tree(contents, made)
    held = held_tensors(plan, contents.layout)
    image = torch_zip.image(
        result,
        tag=contents.tag,
        tag_as="key" if is_nested(contents, result) else "record",
        phases=torch_phases(plan.tensors, made, stored, held),
    )
    work, tensors = torch_work(plan.tensors, made, image, stored, held, result)
    return Output("torch", {"": OutputFile(image, work)}, tensors)


def is_nested(contents: Contents, result: object) -> bool:
    """Whether the state dict is one of several things in a result, and the tag another."""
    is_inside = bool(contents.layout.path) and not contents.weights_only
    return is_inside and entries_of(result) is not None


def result_tree(contents: Contents, made: Mapping[str, Tensor]) -> object:
    """The tree of the result, with the tensors of `made`.

    StorageError CKM740 where something besides the weights would be lost without weights_only.
    """
    plan, stored, layout = contents.plan, contents.stored, contents.layout
    tree, unwrap = contents.tree, contents.unwrap
    new = [(entry.name, made[entry.name]) for entry in plan.entries]
    if stored.is_flat:
        lost = edited_beside(stored, tree) + _lost_metadata(tree)
        if lost and not contents.weights_only:
            raise would_lose(stored, lost, "a plain state dict has no place for them")
        return {contents.prefix + name: tensor for name, tensor in new}
    result = replace_weights(tree, layout, new, moves=plan.moves, unwrap=unwrap)
    for node in plan.carried.nodes:
        result = put(result, node.path, node.build(made))
    if contents.weights_only:
        return child(result, layout.path)
    return drop_outside(result, layout, contents.gone)


def _lost_metadata(tree: object) -> list[str]:
    return [
        f"metadata '{key}'"
        for key, value in (entries_of(tree) or {}).items()
        if isinstance(value, str) and key != "format"
    ]


def new_tensors(contents: Contents) -> dict[str, Tensor]:
    """A tensor of its own storage for every entry, of training state by label; tied ones share one.

    A storage that is one unchanged entry stays itself, so that whatever else in the file shares it
    goes on doing so. Of two entries that are one tensor of the file, untied since, one has it.
    """
    plan = contents.plan
    first, held = plan.owners, held_tensors(plan, contents.layout)
    storages: dict[str, Storage] = {}
    kept: set[tuple[str, Expr]] = set()
    made: dict[str, Tensor] = {}
    fresh = unused_prefix(contents.stored)
    for entry in plan.tensors:
        owner = first.get(entry.name, entry.name)
        origin = next((held[name] for name in sources(entry.expr)), None)
        like = origin if entry.is_unchanged else None
        if owner not in storages:
            whole = like is not None and _is_whole(like)
            if like is not None and whole and (like.storage.key, entry.expr) not in kept:
                kept.add((like.storage.key, entry.expr))
                storages[owner] = like.storage
            else:
                device = origin.storage.device if origin else "cpu"
                spec = entry.spec
                storages[owner] = Storage(fresh + owner, spec.dtype, spec.nbytes, device)
        made[entry.name] = Tensor(
            storages[owner],
            entry.spec,
            0,
            contiguous_strides(entry.spec.shape),
            requires_grad=bool(like and like.requires_grad),
            parameter=bool(like and like.parameter),
            attributes=like.attributes if like else None,
        )
    return made


def unused_prefix(stored: Stored) -> str:
    """What no storage key of the file begins with: a stranger chose those."""
    prefix = "weight "
    while any(key.startswith(prefix) for key in stored.records):
        prefix = f"new {prefix}"
    return prefix


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is its storage, from the first byte to the last."""
    storage, spec = tensor.storage, tensor.spec
    same = (storage.dtype, storage.nbytes, tensor.offset) == (spec.dtype, spec.nbytes, 0)
    in_order = tensor.strides == contiguous_strides(spec.shape)
    return same and in_order and not tensor.conj and not tensor.neg


def torch_work(
    entries: Sequence[Entry],
    made: Mapping[str, Tensor],
    image: FileImage,
    stored: Stored,
    held: Mapping[str, Tensor],
    tree: object,
) -> tuple[dict[str, Work], dict[str, Tensor]]:
    """What fills each slot of a file, and the sources of that by name.

    held  the tensors that the expressions of the entries read
    """
    work: dict[str, Work] = {}
    for entry in entries:
        key = made[entry.name].storage.key
        work.setdefault(key, Work(entry.name, entry.expr, entry.lowered))
    others = {key: node for key, node in _storages(tree).items() if key not in work}
    tensors = dict(held)
    for key, storage in others.items():
        label = f"storage {key} beside the weights"
        tensors[label] = tensor = _flat(storage)
        work[key] = _passed_through(label, tensor, stored)
    return {key: work[key] for key in image.slots}, tensors


def _flat(storage: Storage) -> Tensor:
    """A storage that passes through, as a tensor of its own element type."""
    dtype = storage.dtype if storage.dtype.bits >= 8 else DType.U8
    spec = TensorSpec(dtype, (storage.nbytes * 8 // dtype.bits,))
    return Tensor(storage, spec, 0, contiguous_strides(spec.shape))


def _passed_through(label: str, tensor: Tensor, stored: Stored) -> Work:
    plain = is_plain(tensor, stored.records[tensor.storage.key])
    source = Source(label, tensor.spec)
    return Work(label, source, lower(source, lambda name: plain))


def _storages(tree: object) -> dict[str, Storage]:
    """Every storage by key: under tensors, in attributes of tensors, or by itself."""
    found: dict[str, Storage] = {}
    seen, queue = {id(tree)}, [tree]
    while queue:
        node = queue.pop()
        storage = node.storage if isinstance(node, Tensor) else node
        if isinstance(storage, Storage):
            found.setdefault(storage.key, storage)
        for part in content(node):
            if id(part) not in seen:
                seen.add(id(part))
                queue.append(part)
    return found
