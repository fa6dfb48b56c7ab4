"""Where the weights sit inside a checkpoint, and what else of the training run is beside them.

A state dict stands at the top level of the tree, under a usual key (`known_layouts`), or where the
project says. Its names may carry the prefix of a wrapper (DDP, torch.compile, AveragedModel); a
`Layout` shows bare names, and `replace_weights` puts the prefix back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Stored
from ckmigrate.formats.companions import is_average_file, is_optimizer_file
from ckmigrate.formats.state_dict import (
    Rewrite,
    fault_of,
    is_extra_state,
    is_state_dict,
    kind_of,
    rewritten,
    shared_views,
    wrapper_prefix,
)
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, child, drop, entries_of, holders, put, steps
from ckmigrate.training.known_layouts import MOMENTS, PLAIN, known_layout
from ckmigrate.training.resemblance import resembling

__all__ = [
    "KNOWN_KEYS",
    "WRAPPERS",
    "Layout",
    "Outside",
    "drop_outside",
    "find_weights",
    "layout_at",
    "replace_weights",
]

KNOWN_KEYS = PLAIN.weights
WRAPPERS = ("module", "_orig_mod")

_DEPTH_OF_CHOICES = 3
_MAX_DEPTH = 100
_MAX_STEPS = 10_000_000
_MAX_CHOICES = 8


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


@dataclass(frozen=True, slots=True)
class Layout:
    """One state dict inside a tree.

    path            keys from the top of the tree; () for a flat file
    prefix          wrapper prefix of every name, such as "module._orig_mod.", or ""
    entries         bare name → tensor, in the order of the file
    extras          what else stands in the state dict: `_extra_state` objects by bare name, and
                    the `n_averaged` counter of an AveragedModel under its own
    ties            groups of names that are the same view of one storage
    overlaps        groups of names on one storage that are not all the same view; just values
    training_state  what lies outside, in the order of the file; empty from `layout_at`
    saved_as        the way of saving, for reports: "Lightning checkpoint 2.6.6"
    """

    path: Path
    prefix: str
    entries: Mapping[str, Tensor]
    extras: Mapping[str, object]
    ties: tuple[tuple[str, ...], ...]
    overlaps: tuple[tuple[str, ...], ...]
    training_state: tuple[Outside, ...] = ()
    saved_as: str = "state dict"


def find_weights(
    stored: Stored,
    *,
    weights: str | None = None,
    wrappers: Sequence[str] = WRAPPERS,
    optimizers: Sequence[str] = (),
    copies: Sequence[str] = (),
) -> Layout:
    """The layout of a file's weights.

    weights     dotted path of the state dict in a torch file, "." for the top level; None to look
                at the top level and under the keys of `known_layouts`
    wrappers    module names that count as wrappers, outermost first in any nesting
    optimizers  dotted paths at and below which tensors are state of optimizers, whatever they look
                like; one that is not in this file does not matter
    copies      the same for copies of weights

    StorageError: CKM730 nothing found, CKM731 several, CKM732 and CKM733 nothing usable at
    `weights`, CKM734 a tree that is nested beyond sense.
    """
    where = str(stored.path)
    if stored.is_flat:
        path: Path = ()
    elif weights is not None:
        path = _configured(stored.tree, weights, where)
    else:
        path = _found(stored.tree, where)
    layout = layout_at(stored.tree, path, wrappers=wrappers)
    outside: tuple[Outside, ...] = ()
    if path or stored.is_flat:  # otherwise everything in the tree is inside
        found = _Search(stored, layout, tuple(wrappers)).run()
        outside = _told_apart(tuple(found), stored.state_tree, layout)
        outside = _by_place(outside, stored.state_tree, optimizers, copies)
    if path:
        top = entries_of(stored.tree) or {}
        layout = replace(layout, saved_as=known_layout(top).title(top))
    unread = _unread(stored, {str(o.path[0]) for o in outside if o.kind == "optimizer"})
    return replace(layout, training_state=(*outside, *unread))


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


def _told_apart(outside: tuple[Outside, ...], tree: object, layout: Layout) -> tuple[Outside, ...]:
    """With the copies of weights that go by other names, or by none."""
    others = [(o.path, child(tree, o.path)) for o in outside if o.kind == "other"]
    copies = resembling(others, layout.entries.values())
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
    found = (_resolve(tree, tuple(text.split("."))) for text in dotted)
    return (path for path in found if path)


def layout_at(tree: object, path: Path, *, wrappers: Sequence[str] = WRAPPERS) -> Layout:
    """The layout of the mapping at `path`, such as an EMA copy: its tensors are the entries and
    everything else is an extra. KeyError when nothing is there."""
    content = entries_of(child(tree, path)) or {}
    named = {key: node for key, node in content.items() if isinstance(key, str)}
    carried = [n for n, node in named.items() if isinstance(node, Tensor) or is_extra_state(n)]
    prefix = wrapper_prefix(carried, wrappers)
    entries = {
        name.removeprefix(prefix): node
        for name, node in named.items()
        if isinstance(node, Tensor) and name.startswith(prefix)
    }
    extras = {
        name.removeprefix(prefix): node
        for name, node in named.items()
        if not (isinstance(node, Tensor) and name.startswith(prefix))
    }
    ties, overlaps = shared_views(entries)
    return Layout(path, prefix, entries, extras, ties, overlaps)


def replace_weights(
    tree: object,
    layout: Layout,
    new: Sequence[tuple[str, Tensor]],
    *,
    moves: Mapping[str, Sequence[str]] | None = None,
    unwrap: bool = False,
) -> object:
    """The tree with a new state dict of the same kind in the same place.

    new     (bare name, tensor) in the order to be written
    moves   old bare name → the new names that its values went to; None when no name changed. By
            these, torch's per-module `_metadata` and the extras follow their modules (see
            `follow_modules`); an extra without a successor keeps its name.
    unwrap  write bare names, without the wrapper's prefix and its counter

    Entries that stand before the first tensor stay in front, the other extras come last.
    StorageError CKM735 when two entries would have one name.
    """
    state_dict = child(tree, layout.path)
    rewrite = Rewrite(layout.prefix, tuple(layout.entries), new, moves, unwrap)
    return put(tree, layout.path, rewritten(state_dict, rewrite))


def drop_outside(tree: object, layout: Layout, paths: Iterable[Path]) -> object:
    """The tree without the nodes at these paths, as `layout.training_state` gives them; those of
    files that could not be read are not in it."""
    unread = {o.path for o in layout.training_state if not o.is_readable}
    return drop(tree, [path for path in paths if path not in unread])


# --- finding the state dict -------------------------------------------------------------------


def _found(tree: object, where: str) -> Path:
    if is_state_dict(tree):
        return ()
    top = entries_of(tree) or {}
    # A way of saving that is certain goes first, then keys that could mean something else.
    for keys in (known_layout(top).weights, PLAIN.weights, PLAIN.seldom):
        known: list[Path] = [(key,) for key in keys if is_state_dict(top.get(key))]
        if len(known) == 1:
            return known[0]
        if known:
            what = f"{len(known)} state dicts could be the weights"
            raise StorageError("CKM731", what, where=where, **_choices(tree, known))
    why = "; ".join(_why_not(tree, top)) or None
    what = "no state dict stands at the top level or under " + ", ".join(KNOWN_KEYS)
    raise StorageError("CKM730", what, where=where, why=why, **_choices(tree, _candidates(tree)))


def _configured(tree: object, weights: str, where: str) -> Path:
    path = () if weights == "." else _resolve(tree, tuple(weights.split(".")))
    if path is None:
        what = f"there is nothing at {weights!r}, where the weights should be"
        raise StorageError("CKM732", what, where=where, **_choices(tree, _candidates(tree)))
    why = fault_of(child(tree, path))
    if why is not None:
        what = f"what stands at {weights!r} is not a state dict"
        choices = _choices(tree, _candidates(tree))
        raise StorageError("CKM733", what, where=where, why=why, **choices)
    return path


def _resolve(node: object, segments: tuple[str, ...]) -> Path | None:
    """The path of a dotted text; a key may contain dots itself, the shorter key is tried first."""
    if not segments:
        return ()
    keys = dict(steps(node))
    for end in range(1, len(segments) + 1):
        text = ".".join(segments[:end])
        key: object = int(text) if isinstance(node, list | tuple) and text.isdecimal() else text
        if key in keys:
            rest = _resolve(keys[key], segments[end:])
            if rest is not None:
                return (key, *rest)
    return None


def _candidates(tree: object) -> list[Path]:
    """Paths of state dicts at most three mappings deep, optimizers left out."""
    found: list[Path] = []
    seen = {id(tree)}
    level: list[tuple[Path, object]] = [((), tree)]
    for _ in range(_DEPTH_OF_CHOICES):
        inner = [((*p, k), n) for p, node in level for k, n in (entries_of(node) or {}).items()]
        level = []
        for path, node in inner:
            if is_state_dict(node):
                found.append(path)
            elif id(node) not in seen and not _is_optimizer(node):
                seen.add(id(node))
                level.append((path, node))
    return found


def _why_not(tree: object, top: Mapping[object, object]) -> Iterator[str]:
    if entries_of(tree) is None or any(isinstance(value, Tensor) for value in top.values()):
        yield f"the top level: {fault_of(tree)}"
    for key in KNOWN_KEYS:
        if key in top:
            yield f"{key}: {fault_of(top[key])}"


class _Choices(TypedDict):
    details: tuple[str, ...]
    fix: str


def _choices(tree: object, paths: Sequence[Path]) -> _Choices:
    """The state dicts to choose from, and the next step, as fields of an error."""
    if not paths:
        return _Choices(details=(), fix="save model.state_dict(), alone or under 'state_dict'")
    sizes = [len(entries_of(child(tree, path)) or ()) for path in paths]
    lines = [f"{_dotted(p)}: {n} entries" for p, n in zip(paths, sizes, strict=True)]
    more = [f"and {len(lines) - _MAX_CHOICES} more"] if len(lines) > _MAX_CHOICES else []
    first = _dotted(paths[0])
    fix = f'give --weights {first}, or set weights = "{first}" in [tool.ckmigrate]'
    fix += "; or another one of those above" if len(paths) > 1 else ""
    return _Choices(details=(*lines[:_MAX_CHOICES], *more), fix=fix)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "."


# --- what lies outside ------------------------------------------------------------------------


class _Search:
    """One walk over everything but the weights; bounded, since the tree is a stranger's."""

    def __init__(self, stored: Stored, layout: Layout, wrappers: tuple[str, ...]) -> None:
        self.tree = stored.state_tree
        self.weights = None if stored.is_flat else layout.path
        self.entries = layout.entries
        self.wrappers = wrappers
        self.where = str(stored.path)
        self.holding = holders(self.tree, lambda n: isinstance(n, Tensor) or _is_optimizer(n))
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
        if _is_optimizer(node):
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


def _is_optimizer(node: object) -> bool:
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
