"""The state of optimizers after a migration: every parameter with the moments that belong to it.

    read (optimizer_form) → names of the parameters (param_order) → groups of the new model
    (param_groups) → state of each new parameter (param_state) → the node anew

A map from old to new that is not certain is refused: a moment that goes on with another layer of
the same shape would never be noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Call, Expr, sources
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path
from ckmigrate.spec import TensorSpec
from ckmigrate.training.carried import Carried, CarriedNode, Labels, Summary
from ckmigrate.training.optimizer_form import Group, Key, Optimizer, read_optimizer, written
from ckmigrate.training.param_groups import NewModel, OldGroups, regrouped
from ckmigrate.training.param_names import Given, OldModel, Place, named
from ckmigrate.training.param_state import NewState, OldParameter, StateMaker
from ckmigrate.training.state_fields import FACTORS, build_state, shape_of

__all__ = ["carry_optimizers"]


def carry_optimizers(
    nodes: Sequence[tuple[Path, object]],
    old: OldModel,
    new: NewModel,
    labels: Labels,
    *,
    given: Given | None = None,
    place: Callable[[Call], str | None] = lambda call: None,
) -> Carried:
    """The optimizers of a checkpoint after a migration.

    nodes  where each stands, and what stands there
    place  script and line of a call, for errors

    MigrationError: CKM562, CKM564, CKM568 as `Moments`; CKM565 to CKM567 as `param_order`; CKM569
    as `read_optimizer`; CKM570, CKM578 as `StateMaker`; CKM577 as `regrouped`.
    """
    given = given or Given()
    optimizers = [read_optimizer(node, path) for path, node in nodes]
    held, prefixes = named(optimizers, old, given)
    groups = _old_groups(optimizers, held, old)
    members = _new_members(groups, new, given, optimizers)
    parts = [
        _carry(number, optimizer, held, groups, members, prefixes[number], new, old, labels, place)
        for number, optimizer in enumerate(optimizers)
    ]
    return Carried(
        tuple(part.node for part in parts),
        {label: expr for part in parts for label, expr in part.state.entries.items()},
        {label: tensor for part in parts for label, tensor in part.maker.tensors.items()},
        tuple(check for part in parts for check in part.state.checks),
    )


# --- groups -----------------------------------------------------------------------------------


def _old_groups(
    optimizers: Sequence[Optimizer], held: Mapping[str, Place], old: OldModel
) -> OldGroups:
    listed = [(index, group) for index, one in enumerate(optimizers) for group in one.groups]
    names: list[list[str]] = [[] for _ in listed]
    by_place = {(place.optimizer, place.key): name for name, place in held.items()}
    for number, (index, group) in enumerate(listed):
        names[number] = [by_place[index, key] for key in group.keys]
    alike = [
        next(n for n, (i, other) in enumerate(listed) if i == index and _equal(other, group))
        for index, group in listed
    ]
    return OldGroups(
        names=names,
        optimizer=[index for index, _ in listed],
        alike=alike,
        order=old.parameters,
        ndims={name: old.weights[name].ndim for name in held},
        buffers=old.buffers,
        by_name=[index for index, one in enumerate(optimizers) if one.form != "indexed"],
    )


def _equal(one: Group, other: Group) -> bool:
    return one is other or one.settings == other.settings


def _new_members(
    groups: OldGroups, new: NewModel, given: Given, optimizers: Sequence[Optimizer]
) -> tuple[tuple[str, ...], ...]:
    if given.groups is not None:
        return _given_members(groups, new, given.groups, optimizers)
    counted = [one for one in optimizers if one.form == "indexed"]
    if new.parameters is None and counted:
        raise MigrationError(
            "CKM566",
            "the optimizer counts its parameters, and no model tells how they will be counted",
            where=counted[0].where,
            why="The result is not compared with a model: below the head there is none, and "
            "--no-model leaves it out.",
            fix="Upgrade to the head, with the model. Or leave the state out: --optimizer drop.",
        )
    return regrouped(groups, new)


def _given_members(
    groups: OldGroups,
    new: NewModel,
    given: tuple[tuple[tuple[str, ...], ...], ...],
    optimizers: Sequence[Optimizer],
) -> tuple[tuple[str, ...], ...]:
    """The groups of the real optimizers, which have to be as many as those of the file: learning
    rates, and schedules of them, belong to groups by their number."""
    counts = [len(one) for one in given], [len(one.groups) for one in optimizers]
    if counts[0] != counts[1]:
        raise MigrationError(
            "CKM577",
            "the code makes other optimizers than the checkpoint has",
            why=f"Groups of each, in the code: {counts[0]}; in the checkpoint: {counts[1]}. Which "
            "settings and schedules a group goes on with is not certain.",
            fix="Make as many groups as there were. Or leave the state out: --optimizer drop.",
        )
    known = groups.group_of
    for number, one in enumerate(given):
        for name in (name for names in one for name in names):
            held = {groups.optimizer[known[s]] for s in sources(new.entries[name]) if s in known}
            if held - {number}:
                raise _moved(name)
    return tuple(names for one in given for names in one)


def _moved(name: str) -> MigrationError:
    return MigrationError(
        "CKM577",
        f"'{name}' was in another optimizer before",
        why="State of one optimizer means nothing in another one.",
        fix="Leave the state out: --optimizer drop.",
    )


# --- one optimizer ----------------------------------------------------------------------------


class _Part(NamedTuple):
    node: CarriedNode
    state: NewState
    maker: StateMaker


def _carry(
    number: int,
    optimizer: Optimizer,
    held: Mapping[str, Place],
    groups: OldGroups,
    members: Sequence[Sequence[str]],
    prefix: str,
    new: NewModel,
    old: OldModel,
    labels: Labels,
    place: Callable[[Call], str | None],
) -> _Part:
    own = [group for group, index in enumerate(groups.optimizer) if index == number]
    old_own = {
        name: OldParameter(at.key, at.group - own[0], old.weights[name])
        for name, at in held.items()
        if at.optimizer == number
    }
    maker = StateMaker(optimizer, old_own, labels, place, _whole_fields(optimizer, old_own))
    listed, keys = _keyed(optimizer, [members[group] for group in own], prefix)
    wanted: dict[Key, tuple[int, Expr]] = {
        key: (group, new.entries[name]) for name, (group, key) in keys.items()
    }
    state = maker.state_of(wanted)
    planned = {key: new.entries[name].spec for name, (_, key) in keys.items()}

    def build(made: Mapping[str, Tensor]) -> object:
        return written(optimizer, listed, build_state(state.fields, made))

    summary = _summary(optimizer, old_own, keys, state, maker)
    verify = _verifier(optimizer, listed, state, planned)
    node = CarriedNode(optimizer.path, "optimizer", build, summary, verify)
    return _Part(node, state, maker)


def _whole_fields(optimizer: Optimizer, old: Mapping[str, OldParameter]) -> frozenset[object]:
    """Fields that are matrices beside a parameter somewhere, such as the preconditioners of
    Shampoo: of a square parameter they have its shape, and are no moments of it either."""
    pairs = [(one.spec.shape, optimizer.state.get(one.key, {})) for one in old.values()]
    shapes = [
        (name, part.spec.shape, shape)
        for shape, fields in pairs
        for name, part in fields.items()
        if isinstance(part, Tensor)
    ]
    odd = {name for name, own, shape in shapes if own not in ((), shape)}
    return frozenset(odd) | FACTORS


def _keyed(
    optimizer: Optimizer, members: Sequence[Sequence[str]], prefix: str
) -> tuple[list[Group], dict[str, tuple[int, Key]]]:
    """The new groups as the file will have them; and group and key of each new parameter."""
    listed: list[Group] = []
    keys: dict[str, tuple[int, Key]] = {}
    for number, (group, names) in enumerate(zip(optimizer.groups, members, strict=True)):
        own: list[Key] = []
        for name in names:
            key: Key = len(keys) if optimizer.form == "indexed" else prefix + name
            keys[name] = (number, key)
            own.append(key)
        told = None if group.names is None else tuple(prefix + name for name in names)
        listed.append(Group(tuple(own), told, group.settings))
    return listed, keys


def _summary(
    optimizer: Optimizer,
    old: Mapping[str, OldParameter],
    keys: Mapping[str, tuple[int, Key]],
    state: NewState,
    maker: StateMaker,
) -> Summary:
    """Fresh state is none yet, or what a new optimizer begins with."""
    followed = len(state.followed)
    with_state = {name for name, one in old.items() if one.key in optimizer.state}
    counts = {
        "groups": len(optimizer.groups),
        "parameters": len(keys),
        "follow": followed,
        "fresh": len(keys) - followed,
        "dropped": len(with_state - maker.used),
    }
    told = f"{counts['groups']} groups of {counts['parameters']} parameters"
    told = told.replace("1 groups", "1 group") if counts["groups"] == 1 else told
    words = {"follow": "with state that follows", "fresh": "fresh", "dropped": "dropped"}
    more = [f"{counts[word]} {text}" for word, text in words.items() if counts[word]]
    lines = tuple(f"{count:>6}  {fields}" for fields, count in state.kinds().items())
    return Summary("; ".join([told, ", ".join(more)] if more else [told]), lines, counts)


def _verifier(
    optimizer: Optimizer,
    groups: Sequence[Group],
    state: NewState,
    planned: Mapping[Key, TensorSpec],
) -> Callable[[object], tuple[str, ...]]:
    """A comparison of what was read back with what was planned."""

    def verify(found: object) -> tuple[str, ...]:
        again = read_optimizer(found, optimizer.path)
        if optimizer.form == "flat":  # groups without parameters leave no trace
            wanted = {key for group in groups for key in group.keys}
            same = {key for group in again.groups for key in group.keys} == wanted
        else:
            same = [g.keys for g in again.groups] == [g.keys for g in groups]
        lines = [] if same else [f"{optimizer.where}: its groups are not those that were planned"]
        lines += [
            f"{optimizer.where}: the state of parameter {key} is not what was planned"
            for key in dict.fromkeys([*again.state, *state.fields])
            if set(again.state.get(key, {})) != set(state.fields.get(key, {}))
            or shape_of(again.state.get(key, {})) not in (None, planned[key].shape)
        ]
        return tuple(lines)

    return verify
