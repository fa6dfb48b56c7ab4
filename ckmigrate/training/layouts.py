"""Where the weights sit inside a checkpoint, and what else of the training run is beside them.

A state dict stands at the top level of the tree, under a usual key (`known_layouts`), or where the
project says. Its names may carry the prefix of a wrapper (DDP, torch.compile, AveragedModel); a
`Layout` shows bare names, and `replace_weights` puts the prefix back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from ckmigrate.errors import StorageError
from ckmigrate.formats.base import Stored
from ckmigrate.formats.state_dict import (
    Rewrite,
    fault_of,
    is_extra_state,
    is_state_dict,
    rewritten,
    shared_views,
    wrapper_prefix,
)
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, child, drop, entries_of, put, resolve
from ckmigrate.training.known_layouts import PLAIN, known_layout
from ckmigrate.training.outside import Outside, find_outside, is_optimizer

__all__ = [
    "KNOWN_KEYS",
    "WRAPPERS",
    "Layout",
    "drop_outside",
    "find_weights",
    "layout_at",
    "replace_weights",
]

KNOWN_KEYS = PLAIN.weights
WRAPPERS = ("module", "_orig_mod")

_DEPTH_OF_CHOICES = 3
_MAX_CHOICES = 8


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
    outside = find_outside(
        stored, path, layout.entries, wrappers=wrappers, optimizers=optimizers, copies=copies
    )
    if path:
        top = entries_of(stored.tree) or {}
        layout = replace(layout, saved_as=known_layout(top).title(top))
    return replace(layout, training_state=outside)


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
    path = () if weights == "." else resolve(tree, weights)
    if path is None:
        what = f"there is nothing at {weights!r}, where the weights should be"
        raise StorageError("CKM732", what, where=where, **_choices(tree, _candidates(tree)))
    why = fault_of(child(tree, path))
    if why is not None:
        what = f"what stands at {weights!r} is not a state dict"
        choices = _choices(tree, _candidates(tree))
        raise StorageError("CKM733", what, where=where, why=why, **choices)
    return path


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
            elif id(node) not in seen and not is_optimizer(node):
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
