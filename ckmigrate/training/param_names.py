"""What every parameter in the optimizers of a checkpoint is called.

Where an optimizer names its parameters, it is believed; the rest are counted, and `param_order`
tells who they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ckmigrate.errors import MigrationError
from ckmigrate.spec import TensorSpec
from ckmigrate.training.optimizer_form import Key, Optimizer
from ckmigrate.training.param_order import (
    Parameter,
    Slot,
    names_by_order,
    names_given,
    names_told,
)
from ckmigrate.training.state_fields import shape_of

__all__ = ["Given", "OldModel", "Place", "named"]


@dataclass(frozen=True, slots=True)
class OldModel:
    """The weights of the file.

    weights   specs by bare name
    ties      groups of names that are one tensor
    order     their names in the order of the model; None where the file does not have it
    buffers   those that are no parameters, as far as that is known
    likely    those that probably are none: in the new model they are buffers
    wrappers  name segments that may stand before a name
    """

    weights: Mapping[str, TensorSpec]
    ties: Sequence[Sequence[str]] = ()
    order: Sequence[str] | None = None
    buffers: frozenset[str] = frozenset()
    likely: frozenset[str] = frozenset()
    wrappers: Sequence[str] = ()

    @property
    def first(self) -> dict[str, str]:
        """The name that expressions have for each member of a tied group."""
        return {name: group[0] for group in self.ties for name in group}

    @property
    def parameters(self) -> list[str] | None:
        """What an optimizer may hold, in the order of the model."""
        if self.order is None:
            return None
        first = self.first
        names = dict.fromkeys(first.get(name, name) for name in self.order)
        return [name for name in names if name not in self.buffers]

    def find(self, told: str) -> tuple[str, str] | None:
        """What stands before a name in the optimizer, and the weight that it means."""
        rest, first = told, self.first
        while rest not in self.weights:
            head, dot, rest = rest.partition(".")
            if not dot or head not in self.wrappers:
                return None
        return told.removesuffix(rest), first.get(rest, rest)


@dataclass(frozen=True, slots=True)
class Given:
    """What a user says about optimizers.

    order   the names of their parameters, over all groups; None where it was not given
    source  the file that says it
    groups  names of the new model by optimizer and group, as the real ones have them
    """

    order: tuple[str, ...] | None = None
    source: str = ""
    groups: tuple[tuple[tuple[str, ...], ...], ...] | None = None


class Place(NamedTuple):
    """A parameter as an optimizer of the file has it; `group` counts over all optimizers."""

    optimizer: int
    group: int
    key: Key


def named(
    optimizers: Sequence[Optimizer], old: OldModel, given: Given
) -> tuple[dict[str, Place], list[str]]:
    """Every parameter in an optimizer by its name in expressions; and what the names in each
    optimizer begin with."""
    held: dict[str, Place] = {}
    prefixes: list[str] = []
    open_slots: list[tuple[Slot, Place]] = []
    for slots in _slots(optimizers):
        told = [slot for slot, _ in slots if slot.name is not None]
        if len(told) < len(slots):
            open_slots += slots
            prefixes.append("")
            continue
        found = {slot.name: old.find(slot.name) for slot in told if slot.name is not None}
        prefixes.append(next((where[0] for where in found.values() if where), ""))
        weights = {n: _parameter(where[1], old) for n, where in found.items() if where}
        _hold(held, slots, names_told(told, weights))
    if open_slots:
        names = _counted([slot for slot, _ in open_slots], held, old, given)
        _hold(held, open_slots, names)
    return held, prefixes


def _counted(
    slots: Sequence[Slot], held: Mapping[str, Place], old: OldModel, given: Given
) -> tuple[str, ...]:
    """The names of parameters that are only counted."""
    if given.order is not None:
        found = {name: old.find(name) for name in given.order}
        weights = {name: _parameter(where[1], old) for name, where in found.items() if where}
        return names_given(slots, given.order, weights, given.source)
    if old.order is None:
        return names_by_order(slots, None)
    names = [name for name in old.parameters or () if name not in held]
    sure = [name for name in names if name not in old.likely]
    # Only where every other weight is in the optimizer: beside frozen ones, what is a buffer now
    # may have been the parameter that it held.
    model = sure if len(sure) == len(slots) else names
    return names_by_order(slots, [_parameter(name, old) for name in model])


def _hold(
    held: dict[str, Place], slots: Sequence[tuple[Slot, Place]], names: Sequence[str]
) -> None:
    for (slot, place), name in zip(slots, names, strict=True):
        if name in held:
            raise MigrationError(
                "CKM565",
                f"'{name}' stands twice in the optimizers",
                where=slot.place,
                why="Several optimizers of one parameter each have state of it, and which of its "
                "names is meant is not certain.",
                fix="Leave the state out: --optimizer drop.",
            )
        held[name] = place


def _parameter(name: str, old: OldModel) -> Parameter:
    return Parameter(name, old.weights[name].shape)


def _slots(optimizers: Sequence[Optimizer]) -> list[list[tuple[Slot, Place]]]:
    """The places of each optimizer, in order."""
    found: list[list[tuple[Slot, Place]]] = []
    number = 0
    for index, optimizer in enumerate(optimizers):
        own: list[tuple[Slot, Place]] = []
        for count, group in enumerate(optimizer.groups):
            for position, key in enumerate(group.keys):
                place = f"{optimizer.where}, group {count}, parameter {position}"
                name = key if isinstance(key, str) else group.names and group.names[position]
                slot = Slot(number, place, shape_of(optimizer.state.get(key, {})), name or None)
                own.append((slot, Place(index, number, key)))
            number += 1
        found.append(own)
    return found
