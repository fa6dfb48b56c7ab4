"""What of a training run is beside the weights of a checkpoint: optimizers, copies of the weights,
and other tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Stored
from ckmigrate.formats.folder_names import is_average_file, is_optimizer_file
from ckmigrate.formats.state_dict import kind_of
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, child, entries_of, holders, resolve, steps
from ckmigrate.training.known_layouts import MOMENTS, known_layout
from ckmigrate.training.resemblance import resembling

__all__ = ["Outside", "find_outside", "is_optimizer"]

_MAX_DEPTH = 100
_MAX_STEPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Outside:
    """Tensors of a training run that are not the weights.

    path         keys and list indices from the top of the tree
    kind         "optimizer": a dict of `state` and `param_groups`; "copy": a mapping that repeats
                 names of the weights, such as an EMA, or several tensors with shapes of weights;
                 "other": random states, normalisation …
    description  one short phrase for a report
    is_readable  whether it stands at `path` in `Stored.state_tree`; otherwise the description says
                 why not, and it can only be left as it is or left out
    """

    path: Path
    kind: Literal["optimizer", "copy", "other"]
    description: str
    is_readable: bool = True


def find_outside(
    stored: Stored,
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    wrappers: Sequence[str],
    optimizers: Sequence[str] = (),
    copies: Sequence[str] = (),
) -> tuple[Outside, ...]:
    """Everything with tensors beside the state dict at `path`, in the order of the file; the other
    arguments are those of `find_weights`. StorageError CKM734 as there."""
    found: tuple[Outside, ...] = ()
    if path or stored.is_flat:  # otherwise everything in the tree is inside
        found = tuple(_Search(stored, path, weights, tuple(wrappers)).run())
        found = _told_apart(found, stored.state_tree, weights.values())
        found = _by_place(found, stored.state_tree, optimizers, copies)
    return (*found, *_unread(stored, {str(o.path[0]) for o in found if o.kind == "optimizer"}))


def _unread(stored: Stored, known: Collection[str]) -> Iterator[Outside]:
    """Files beside the weights whose names promise training state that was not found in them."""
    names = stored.folder.others if stored.folder else ()
    for name in names:
        fault = stored.beside.faults.get(name)
        if is_optimizer_file(name) and name not in known:
            why = fault or "no state and param_groups stand in it"
            what = f"a file of optimizer state that cannot be changed: {why}"
            yield Outside((name,), "optimizer", what, is_readable=False)
        elif fault is not None and is_average_file(name):
            what = f"a file of averaged weights that cannot be changed: {fault}"
            yield Outside((name,), "copy", what, is_readable=False)


def _told_apart(
    outside: tuple[Outside, ...], tree: object, weights: Iterable[Tensor]
) -> tuple[Outside, ...]:
    """With the copies of weights that go by other names, or by none."""
    others = [(o.path, child(tree, o.path)) for o in outside if o.kind == "other"]
    copies = resembling(others, weights)
    return tuple(
        replace(o, kind="copy", description=f"{copies[o.path]} tensors, with shapes of weights")
        if o.path in copies
        else o
        for o in outside
    )


def _by_place(
    outside: tuple[Outside, ...], tree: object, optimizers: Sequence[str], copies: Sequence[str]
) -> tuple[Outside, ...]:
    """What the project says of a place goes before what stands there looks like. Where optimizers
    usually are, nothing is a copy of weights: moments by the names of weights look like one."""
    told = dict.fromkeys(_places(tree, optimizers), "optimizer")
    told |= dict.fromkeys(_places(tree, copies), "copy")
    usual = {(key,) for key in known_layout(entries_of(tree) or {}).optimizers}

    def kind(one: Outside) -> Literal["optimizer", "copy", "other"]:
        for end in range(len(one.path), 0, -1):
            found = told.get(one.path[:end])
            if found is not None:
                return "optimizer" if found == "optimizer" else "copy"
        is_usual = one.path[:1] in usual or not MOMENTS.isdisjoint(map(str, one.path))
        return "optimizer" if one.kind == "copy" and is_usual else one.kind

    return tuple(replace(one, kind=kind(one)) for one in outside)


def _places(tree: object, dotted: Iterable[str]) -> Iterator[Path]:
    """The paths of those texts that lead somewhere in this file."""
    found = (resolve(tree, text) for text in dotted)
    return (path for path in found if path)


# --- one walk ----------------------------------------------------------------------------------


class _Search:
    """One walk over everything but the weights; bounded, since the tree is a stranger's."""

    def __init__(
        self,
        stored: Stored,
        weights: Path,
        entries: Mapping[str, Tensor],
        wrappers: tuple[str, ...],
    ) -> None:
        self.tree = stored.state_tree
        self.weights = None if stored.is_flat else weights
        self.entries = entries
        self.wrappers = wrappers
        self.where = str(stored.path)
        self.holding = holders(self.tree, lambda n: isinstance(n, Tensor) or is_optimizer(n))
        self.steps = 0

    def run(self) -> Iterator[Outside]:
        return self.walk(self.tree, ())

    def walk(self, node: object, path: Path) -> Iterator[Outside]:
        if path == self.weights or id(node) not in self.holding:
            return
        inner = dict(steps(node))
        self.steps += 1 + len(inner)
        if len(path) > _MAX_DEPTH or self.steps > _MAX_STEPS:
            what = "the checkpoint is nested too deeply, or shares its parts too often"
            raise StorageError("CKM734", what, where=self.where, fix="save it without such objects")
        above = path == (self.weights or ())[: len(path)]
        found = None if above else self.classify(node, inner, path)
        if found is not None:
            yield found
            return
        for key, part in inner.items():
            yield from self.walk(part, (*path, key))

    def classify(self, node: object, inner: Mapping[object, object], path: Path) -> Outside | None:
        """What this node is as a whole; None when it has to be looked into."""
        if is_optimizer(node):
            return Outside(path, "optimizer", _describe_optimizer(node))
        if isinstance(node, Tensor):
            return Outside(path, "other", f"tensor {node.spec}")
        tensors = sum(isinstance(part, Tensor) for part in inner.values())
        if self.repeats_weights(inner):
            return Outside(path, "copy", f"copy of weights, {tensors} tensors")
        if not inner:
            return Outside(path, "other", f"tensors inside {kind_of(node)}")
        return Outside(path, "other", f"{tensors} tensors") if tensors == len(inner) else None

    def repeats_weights(self, inner: Mapping[object, object]) -> bool:
        """Whether there is the name of a weight, or most are names of weights with one more module
        before them."""
        tensors = {k: t for k, t in inner.items() if isinstance(k, str) and isinstance(t, Tensor)}
        if any(self.is_weight(key) for key in tensors):
            return True
        inside = sum(self.is_inside(key, tensor) for key, tensor in tensors.items())
        return 2 * inside > len(tensors)

    def is_inside(self, name: str, tensor: Tensor) -> bool:
        """Whether a name ends as that of a weight of the same shape."""
        rest = name
        while rest and rest not in self.entries:
            rest = rest.partition(".")[2]
        return bool(rest) and self.entries[rest].spec.shape == tensor.spec.shape

    def is_weight(self, name: str) -> bool:
        return name in self.entries or _bare(name, self.wrappers) in self.entries


def is_optimizer(node: object) -> bool:
    """Whether a node has the form of an optimizer's state dict."""
    entries = entries_of(node)
    if entries is not None and _is_flat_optimizer(entries):
        return True
    if entries is None or not isinstance(entries.get("param_groups"), list | tuple):
        return False
    # Distributed checkpoints leave nothing of an empty mapping.
    alone = entries.keys() == {"param_groups"} and _are_groups(entries["param_groups"])
    return alone or entries_of(entries.get("state")) is not None


def _are_groups(node: object) -> bool:
    """Whether a node is groups of parameters as optimizers have them."""
    groups = [entries_of(part) for part in node] if isinstance(node, list | tuple) else []
    return bool(groups) and all(group is not None and "params" in group for group in groups)


def _is_flat_optimizer(entries: Mapping[object, object]) -> bool:
    """State that torch has flattened for distributed checkpoints: `state.layer.weight.exp_avg` and
    `param_groups.layer.weight.lr`; or groups alone, of an optimizer that keeps no state."""
    flat = all(isinstance(key, str) and "." in key for key in entries)
    heads = {str(key).partition(".")[0] for key in entries} if flat else set()
    return "param_groups" in heads and heads <= {"state", "param_groups"}


def _describe_optimizer(node: object) -> str:
    entries = entries_of(node) or {}
    if _is_flat_optimizer(entries):
        return f"optimizer state, {sum(isinstance(v, Tensor) for v in entries.values())} tensors"
    state = entries_of(entries.get("state")) or {}
    return f"optimizer state of {len(state)} parameters"


def _bare(name: str, wrappers: Sequence[str]) -> str:
    head, _, rest = name.partition(".")
    while rest and head in wrappers:
        name = rest
        head, _, rest = name.partition(".")
    return name
