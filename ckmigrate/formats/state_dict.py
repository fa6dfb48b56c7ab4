"""What a state dict looks like in an inert tree: names to tensors, and torch's module versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ckmigrate.errors import StorageError
from ckmigrate.formats.tree import Object, Tensor
from ckmigrate.formats.tree_paths import entries_of, with_entries
from ckmigrate.module_paths import follow_modules

__all__ = [
    "Rewrite",
    "fault_of",
    "is_extra_state",
    "is_state_dict",
    "kind_of",
    "rewritten",
    "shared_views",
    "wrapper_prefix",
]

_AVERAGED = "n_averaged"

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """New tensors for a state dict.

    prefix  the wrapper prefix that its names carry
    old     the bare names of its tensors
    new     (bare name, tensor) in the order to be written
    moves   old bare name → the new names that its values went to; None when no name changed
    unwrap  write bare names and leave the wrapper's own tensors out
    """

    prefix: str
    old: Sequence[str]
    new: Sequence[tuple[str, Tensor]]
    moves: Mapping[str, Sequence[str]] | None = None
    unwrap: bool = False

    def names(self) -> list[str]:
        return [name for name, _ in self.new]

    def follow(self, modules: Iterable[str]) -> dict[str, str]:
        """New path by old one of the modules that still exist."""
        kept = set(self.names())
        same = {name: (name,) if name in kept else () for name in self.old}
        return follow_modules(modules, same if self.moves is None else self.moves, kept)


def is_extra_state(name: str) -> bool:
    """Whether a name belongs to what `get_extra_state` of a module returned."""
    return _split(name)[1] == "_extra_state"


def is_state_dict(node: object) -> bool:
    """Whether a node is a mapping of names to tensors, `_extra_state` objects apart."""
    return fault_of(node) is None


def fault_of(node: object) -> str | None:
    """Why a node is no state dict; None if it is one."""
    entries = entries_of(node)
    if entries is None:
        return f"it is {kind_of(node)}"
    tensors = sum(isinstance(value, Tensor) for value in entries.values())
    if not tensors:
        return "it holds no tensors directly"
    odd = [key for key, value in entries.items() if not _belongs(key, value)]
    if not odd:
        return None
    some = ", ".join(f"{key!r} ({kind_of(entries[key])})" for key in odd[:3])
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    return f"beside {tensors} tensors it holds {some}{more}"


def kind_of(node: object) -> str:
    """A phrase for what a node is."""
    if isinstance(node, Tensor):
        return f"a tensor {node.spec}"
    if isinstance(node, Object):
        whole = isinstance(node.state, dict) and "_parameters" in node.state
        return f"a whole pickled module, {node.factory}" if whole else f"a {node.factory}"
    return "None" if node is None else f"of type {type(node).__name__}"


def shared_views(entries: Mapping[str, Tensor]) -> tuple[Groups, Groups]:
    """Groups of names that are one view of a storage (tied), and groups of names on one storage
    that are not all the same view (parts of one buffer)."""
    by_storage: dict[str, dict[object, list[str]]] = {}
    for name, tensor in entries.items():
        if tensor.spec.numel:
            views = by_storage.setdefault(tensor.storage.key, {})
            views.setdefault(_view(tensor), []).append(name)
    groups = [group for views in by_storage.values() for group in views.values()]
    ties = tuple(tuple(group) for group in groups if len(group) > 1)
    several = [views.values() for views in by_storage.values() if len(views) > 1]
    return ties, tuple(tuple(name for group in views for name in group) for views in several)


def wrapper_prefix(names: Iterable[str], wrappers: Iterable[str]) -> str:
    """The longest run of wrapper names, in any order, that starts every name as whole segments.

    The counter that AveragedModel keeps beside what it wraps need not carry it.
    """
    prefix = ""
    heads = tuple(f"{wrapper.strip('.')}." for wrapper in wrappers)
    carried = list(names)
    while carried:
        inner = [name for name in carried if name != prefix + _AVERAGED]
        longer = [prefix + head for head in heads if _all_carry(prefix + head, inner)]
        if not longer:
            break
        prefix, carried = longer[0], inner
    return prefix


def _all_carry(prefix: str, names: Sequence[str]) -> bool:
    return bool(names) and all(n.startswith(prefix) and n != prefix for n in names)


def rewritten(node: object, rewrite: Rewrite) -> object:
    """The state dict with new tensors, its other entries and torch's module versions renamed with
    their modules. StorageError CKM735 when two entries would have one name."""
    front, back = _others(entries_of(node) or {}, rewrite)
    prefix = "" if rewrite.unwrap else rewrite.prefix
    tensors = [(prefix + name, tensor) for name, tensor in rewrite.new]
    changed = with_entries(node, _unique([*front, *tensors, *back]))
    metadata = _metadata_of(node)
    if metadata is None or not isinstance(changed, Object):
        return changed
    moved = _moved_metadata(entries_of(metadata) or {}, rewrite)
    attributes = {**_attributes(node), "_metadata": with_entries(metadata, moved)}
    return replace(changed, state=attributes)


Pairs = list[tuple[object, object]]


def _others(content: Mapping[object, object], rewrite: Rewrite) -> tuple[Pairs, Pairs]:
    """What is no weight, under its new name: before the first weight, and after it."""
    weights = {rewrite.prefix + name for name in rewrite.old}
    prefix = rewrite.prefix
    others = [key for key in content if key not in weights]
    inner = {k: k[len(prefix) :] for k in others if isinstance(k, str) and k.startswith(prefix)}
    modules = rewrite.follow(_split(name)[0] for name in inner.values())
    started = False
    front: Pairs = []
    back: Pairs = []
    for key, value in content.items():
        started = started or key in weights
        outer = isinstance(value, Tensor) and key not in inner
        if key not in weights and not (outer and rewrite.unwrap):
            name = _renamed(key, rewrite, modules) if key in inner else key
            (back if started else front).append((name, value))
    return front, back


def _renamed(key: object, rewrite: Rewrite, modules: Mapping[str, str]) -> str:
    module, leaf = _split(str(key).removeprefix(rewrite.prefix))
    name = f"{modules.get(module, module)}.{leaf}".removeprefix(".")
    return name if rewrite.unwrap else rewrite.prefix + name


def _moved_metadata(content: Mapping[object, object], rewrite: Rewrite) -> dict[object, object]:
    """torch's module versions under the new module paths; those of the wrappers stay."""
    prefix = rewrite.prefix
    # "module" is the root of what the prefix "module." wraps, so keys are compared with a dot.
    inside = {
        key: f"{key}."[len(prefix) :].rstrip(".")
        for key in content
        if isinstance(key, str) and f"{key}.".startswith(prefix)
    }
    modules = rewrite.follow(inside.values())
    start = "" if rewrite.unwrap else prefix
    found: dict[object, object] = {}
    for key, value in content.items():
        if key not in inside:
            found |= {} if rewrite.unwrap else {key: value}
        elif inside[str(key)] in modules:
            found[(start + modules[inside[str(key)]]).rstrip(".")] = value
    return found


def _unique(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    found: dict[object, object] = {}
    for name, node in pairs:
        if name in found:
            what = f"two entries of the new state dict are named {name!r}"
            raise StorageError("CKM735", what, fix="rename one of them in a migration")
        found[name] = node
    return found


def _metadata_of(node: object) -> object | None:
    metadata = _attributes(node).get("_metadata")
    return metadata if entries_of(metadata) is not None else None


def _attributes(node: object) -> dict[object, object]:
    return node.state if isinstance(node, Object) and isinstance(node.state, dict) else {}


def _split(name: str) -> tuple[str, str]:
    """Module path and leaf of an entry's name."""
    module, _, leaf = name.rpartition(".")
    return module, leaf


def _belongs(key: object, value: object) -> bool:
    named = isinstance(key, str) and bool(key)
    return named and (isinstance(value, Tensor) or is_extra_state(str(key)))


def _view(tensor: Tensor) -> object:
    # The stride of a dimension of size 1 says nothing.
    sizes = zip(tensor.spec.shape, tensor.strides, strict=False)
    strides = tuple(stride for size, stride in sizes if size != 1)
    return tensor.spec, tensor.offset, strides, tensor.conj, tensor.neg
