"""One copy of the weights after a migration: which of the new weights it has, and of what each is
made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ckmigrate.expr import Expr, Source, cast, sources
from ckmigrate.formats.state_dict import Rewrite
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path
from ckmigrate.spec import DType
from ckmigrate.step import Check
from ckmigrate.training.carried import Labels
from ckmigrate.training.copy_names import Group, NotCarried
from ckmigrate.training.follow import State, follow

__all__ = ["Memory", "Moved", "Part", "follow_group"]

Ties = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the weights.

    old         the weights of the file by bare name
    old_ties    groups of them that are one tensor
    new         the expression of every new weight, in the order of the result
    new_ties    groups of these that are one tensor
    parameters  the new names of parameters, not of buffers, in the order of the model and of tied
                ones the first; None: not known
    order       the same of the old ones, by their names in expressions
    """

    old: Mapping[str, Tensor]
    old_ties: Ties
    new: Mapping[str, Expr]
    new_ties: Ties
    parameters: tuple[str, ...] | None = None
    order: tuple[str, ...] | None = None

    @property
    def first(self) -> dict[str, str]:
        """The name that expressions have for each member of a tied group."""
        return {name: group[0] for group in self.old_ties for name in group}


class Memory:
    """What is one tensor in several places of the file, and stays one where it goes the same way:
    a copy that is the weights themselves, or two names for one copy."""

    def __init__(self, moved: Moved) -> None:
        first = moved.first
        self._sources: dict[object, str] = {}
        for name, tensor in moved.old.items():
            self._sources.setdefault(
                _identity(tensor, first.get(name, name)), first.get(name, name)
            )
        self._new = {name: [(expr, name)] for name, expr in moved.new.items()}

    def source(self, tensor: Tensor, weight: str, label: str) -> str:
        """The name of a source for a copy of a weight: `label`, unless it has one already."""
        return self._sources.setdefault(_identity(tensor, weight), label)

    def twin(self, name: str, expr: Expr, label: str) -> str | None:
        """Who else is the tensor that a copy of the new weight `name` is, be it the weight."""
        known = self._new[name]
        found = next((other for made, other in known if made == expr), None)
        if found is None:
            known.append((expr, label))
        return found if sources(expr) else None


@dataclass(frozen=True, slots=True)
class _Old:
    """The copies of the weights by their names in expressions.

    tensors  those that have labels, by label
    apart    tied weights whose copies are several tensors
    """

    sources: Mapping[str, Source]
    tensors: Mapping[str, Tensor]
    checks: tuple[Check, ...]
    apart: frozenset[str]


@dataclass(frozen=True, slots=True)
class Part:
    """One group after the migration; `new` and `labels` go by the names of new weights."""

    group: Group
    old: _Old
    new: Mapping[str, Expr]
    labels: Mapping[str, str]
    ties: Ties
    rewrite: Rewrite


def follow_group(group: Group, path: Path, moved: Moved, labels: Labels, memory: Memory) -> Part:
    """The copies of a group, after the migration.

    NotCarried where some of it cannot follow with certainty; MigrationError CKM564 as `follow`.
    """
    old = _old(group, path, moved, labels, memory)
    state, dtypes = State(old.sources.get, "value"), _dtypes(group, moved)
    new: dict[str, Expr] = {}
    for name in _names(group, old, moved):
        expr = moved.new[name]
        copied = follow(expr, state) if sources(expr) else cast(expr, _dtype(expr, dtypes))
        assert copied is not None
        new[name] = copied
    own = {name: labels.of((*path, group.prefix + name)) for name in new}
    return Part(
        group, old, new, own, _ties(new, own, old, moved, memory), _rewrite(group, moved, new)
    )


def _old(group: Group, path: Path, moved: Moved, labels: Labels, memory: Memory) -> _Old:
    first = moved.first
    found: dict[str, Source] = {}
    tensors: dict[str, Tensor] = {}
    checks: list[Check] = []
    apart: set[str] = set()
    for name, tensor in group.tensors.items():
        weight, own = first.get(name, name), labels.of((*path, group.prefix + name))
        source = Source(memory.source(tensor, weight, own), tensor.spec)
        if source.name == own:
            tensors[own] = tensor
        known = found.setdefault(weight, source)
        if known != source:
            apart.add(weight)
            checks.append(_check(known, source, name, weight))
    return _Old(found, tensors, tuple(checks), frozenset(apart))


def _check(one: Source, other: Source, name: str, weight: str) -> Check:
    if one.spec != other.spec:
        raise NotCarried(f"'{name}' and '{weight}' are tied, and their copies differ in dtype")
    return Check(one, other, f"'{name}' is tied to '{weight}', and so are their copies")


def _dtypes(group: Group, moved: Moved) -> dict[DType, DType]:
    """The dtype of the copies by that of the weights, where it is one."""
    found: dict[DType, set[DType]] = {}
    for name, tensor in group.tensors.items():
        found.setdefault(moved.old[name].spec.dtype, set()).add(tensor.spec.dtype)
    return {old: next(iter(new)) for old, new in found.items() if len(new) == 1}


def _dtype(expr: Expr, dtypes: Mapping[DType, DType]) -> DType:
    return dtypes.get(expr.spec.dtype, expr.spec.dtype)


# --- which of the new weights it has ----------------------------------------------------------


def _names(group: Group, old: _Old, moved: Moved) -> list[str]:
    """The new weights that the copy has: those made of weights that it had, and new ones where it
    had every weight, or every parameter."""
    held: dict[str, bool] = {}
    fresh: list[str] = []
    for name, expr in moved.new.items():
        read = sources(expr)
        has = [source in old.sources for source in read]
        if any(has) and not all(has):
            missing = read[has.index(False)]
            raise NotCarried(f"'{name}' is made of '{missing}' too, which is not in it")
        if not read:
            fresh.append(name)
        held[name] = any(has)
    if fresh:
        known = moved.parameters if group.of_parameters else None
        taken = _taken(fresh, held, old, moved) if known is None else known
        held |= {name: name in taken for name in fresh}
    doubles = _doubles(group, moved)
    return [name for name, has in held.items() if has and name not in doubles]


def _taken(
    fresh: Collection[str], held: Mapping[str, bool], old: _Old, moved: Moved
) -> Collection[str]:
    """What a copy has of that which is new in the model."""
    first = moved.first
    if all(first.get(weight, weight) in old.sources for weight in moved.old):
        return frozenset(fresh)
    known, tied = moved.parameters, {name for group in moved.new_ties for name in group}
    others = held.keys() - set(fresh) - tied
    if known is not None and all(held[other] == (other in known) for other in others):
        return known
    shown = ", ".join(f"'{name}'" for name in list(fresh)[:3])
    raise NotCarried(f"it has some of the weights only: whether it gets {shown} is not certain")


def _doubles(group: Group, moved: Moved) -> set[str]:
    """Second names of tied weights, where the copy has tied weights under one name, as copies of
    `named_parameters()` do."""
    once = any(
        0 < sum(name in group.tensors for name in names) < len(names) for names in moved.old_ties
    )
    found: set[str] = set()
    for names in moved.new_ties if once else ():
        kept = next((name for name in names if name in (moved.parameters or ())), names[0])
        found.update(name for name in names if name != kept)
    return found


# --- what is one tensor -----------------------------------------------------------------------


def _ties(
    new: Mapping[str, Expr],
    labels: Mapping[str, str],
    old: _Old,
    moved: Moved,
    memory: Memory,
) -> Ties:
    found: list[tuple[str, ...]] = []
    for name, expr in new.items():
        twin = memory.twin(name, expr, labels[name])
        found += [(twin, labels[name])] if twin is not None else []
    for names in moved.new_ties:
        here = tuple(labels[name] for name in names if name in new)
        read = {source for name in names for source in sources(moved.new[name])}
        if len(here) > 1 and not read & old.apart:
            found.append(here)
    return tuple(found)


def _identity(tensor: Tensor, weight: str) -> object:
    """Equal for tensors that are the same memory, seen in the same way, as copies of one weight."""
    sizes = zip(tensor.spec.shape, tensor.strides, strict=True)
    strides = tuple(stride for size, stride in sizes if size != 1)
    key, bits = tensor.storage.key, (tensor.conj, tensor.neg)
    return weight, key, tensor.spec, tensor.offset, strides, bits


def _rewrite(group: Group, moved: Moved, new: Mapping[str, Expr]) -> Rewrite:
    first = moved.first
    users: dict[str, list[str]] = {}
    for name in new:
        for source in sources(moved.new[name]):
            users.setdefault(source, []).append(name)
    moves = {name: users.get(first.get(name, name), []) for name in group.tensors}
    return Rewrite(group.prefix, tuple(group.tensors), (), moves)
