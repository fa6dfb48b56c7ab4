"""Which parameter an optimizer means by its number.

torch saves an optimizer's state by position: parameter 0, 1, 2 … over all groups. Which names those
were is certain where the file says it, or where the names are given. Otherwise there is only one
thing to go by: a group lists parameters in the order in which the model has them. A reading counts
where it is the only one by which every state has the shape of its parameter; frozen parameters may
be in no group. Two layers of one shape that could be taken for each other are never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ckmigrate.errors import MigrationError

__all__ = ["Parameter", "Slot", "names_by_order", "names_given", "names_told"]

_MOST_READINGS = 20_000
"""Half-read ways at a time; past it, shapes tell too little for a search to end."""

_MOST_LINES = 8

WAYS = (
    "Give the names in the order of the optimizer, over all of its groups: --param-order FILE. "
    "With the code that wrote the checkpoint: names = {id(p): n for n, p in "
    "model.named_parameters()}; print(*(names[id(p)] for g in optimizer.param_groups for p in "
    'g["params"]), sep="\\n"). Or leave the state out: --optimizer drop.'
)


class Parameter(NamedTuple):
    """A weight that an optimizer may hold."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in an optimizer: one parameter, as the file has it.

    group  the number of its group, over all optimizers of the file
    place  where it stands, for errors: "optimizer_states.0, group 1, parameter 3"
    shape  of its state; None where there is nothing to tell it
    name   of the parameter, where the file says it
    """

    group: int
    place: str
    shape: tuple[int, ...] | None
    name: str | None = None


def names_told(slots: Sequence[Slot], weights: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The names that the file itself says; `weights` are all that it has, second names of ties
    included, by the names that it may use. MigrationError CKM565, CKM567."""
    unknown = [slot for slot in slots if slot.name not in weights]
    if unknown:
        raise MigrationError(
            "CKM565",
            f"the optimizer names {len(unknown)} parameters that the checkpoint does not have",
            details=_some([f"{slot.place}: {slot.name}" for slot in unknown]),
            why="Its state belongs to weights that are not these.",
            fix=WAYS,
        )
    return _fitting(slots, [weights[slot.name or ""] for slot in slots])


def names_given(
    slots: Sequence[Slot], names: Sequence[str], weights: Mapping[str, Parameter], source: str
) -> tuple[str, ...]:
    """The names that a user gave, in the file `source`. MigrationError CKM565, CKM567."""
    unknown = [name for name in names if name not in weights]
    known = [weights[name].name for name in names if name in weights]
    twice = [name for name in dict.fromkeys(known) if known.count(name) > 1]
    wrong = [f"{name}: the checkpoint has no such weight" for name in unknown]
    wrong += [f"{name}: stands in it twice" for name in twice]
    if len(names) != len(slots):
        wrong.append(f"{len(names)} names for {len(slots)} parameters of the optimizer")
    if wrong:
        raise MigrationError(
            "CKM565",
            "the order of parameters is not that of this checkpoint",
            where=source,
            details=_some(wrong),
            why="It names each parameter of the optimizer once, over all of its groups.",
            fix="Print it with the model and the optimizer that the checkpoint was written with.",
        )
    return _fitting(slots, [weights[name] for name in names])


def _fitting(slots: Sequence[Slot], found: Sequence[Parameter]) -> tuple[str, ...]:
    pairs = list(zip(slots, found, strict=True))
    odd = [(slot, one) for slot, one in pairs if slot.shape not in (None, one.shape)]
    if odd:
        raise MigrationError(
            "CKM567",
            f"the state of {len(odd)} parameters does not have their shape",
            details=_some(
                [
                    f"{slot.place}: {list(slot.shape or ())}, '{one.name}' is {list(one.shape)}"
                    for slot, one in odd
                ]
            ),
            why="The state belongs to other parameters, or is a part of it that one rank keeps.",
            fix=WAYS,
        )
    return tuple(one.name for one in found)


def names_by_order(slots: Sequence[Slot], model: Sequence[Parameter] | None) -> tuple[str, ...]:
    """The only names by which each group is in the order of the model and every shape fits.

    `model` has the parameters of the old model in its order, None where that is not known.
    MigrationError CKM566 where several readings fit, or none.
    """
    if model is None:
        raise _uncertain("the order of the parameters is not known", ())
    readings = list(_readings(slots, model))
    if len(readings) == 1:
        return readings[0]
    if not readings:
        counted = f"{len(slots)} parameters in the optimizer, {len(model)} in the weights"
        raise _uncertain("no order of the weights fits the optimizer's state", (counted,))
    differ = [
        f"{slot.place}: '{one}' or '{other}'"
        for slot, one, other in zip(slots, *readings[:2], strict=True)
        if one != other
    ]
    what = f"{len(differ)} parameters of the optimizer could be one weight or another"
    raise _uncertain(what, _some(differ))


def _uncertain(what: str, details: tuple[str, ...]) -> MigrationError:
    return MigrationError(
        "CKM566",
        what,
        details=details,
        why="The optimizer counts its parameters and does not name them. What the order of the "
        "weights and their shapes leave open is not guessed: moments of one layer would go on "
        "with another.",
        fix=WAYS,
    )


class _Reading(NamedTuple):
    """A way to read the first weights: the last one, what it was taken for, and the way so far."""

    name: str
    slot: int
    before: _Reading | None


_Ways = dict[tuple[int, ...], tuple["_Reading | None", ...]]


def _readings(slots: Sequence[Slot], model: Sequence[Parameter]) -> Iterator[tuple[str, ...]]:
    """At most two readings."""
    queues: dict[int, list[int]] = {}
    for number, slot in enumerate(slots):
        queues.setdefault(slot.group, []).append(number)
    groups = list(queues.values())
    ways: _Ways = {(0,) * len(groups): (None,)}
    for position, parameter in enumerate(model):
        spare = len(model) - position - 1
        ways = _longer(ways, parameter, groups, slots, spare)
        if len(ways) > _MOST_READINGS:
            raise _uncertain("the shapes of the optimizer's state tell too little", ())
    for way in ways.get(tuple(map(len, groups)), ()):
        yield _names(way, len(slots))


def _longer(
    ways: _Ways,
    parameter: Parameter,
    groups: Sequence[Sequence[int]],
    slots: Sequence[Slot],
    spare: int,
) -> _Ways:
    """The ways with one more weight: it is next in one of the groups, or in none; `spare` weights
    are left for the places that stay open."""
    total, found = len(slots), _Ways()
    for done, before in ways.items():
        if total - sum(done) <= spare:
            found[done] = (*found.get(done, ()), *before)[:2]
        for group, queue in enumerate(groups):
            at = done[group]
            if at == len(queue) or slots[queue[at]].shape not in (None, parameter.shape):
                continue
            if total - sum(done) - 1 <= spare:
                after = (*done[:group], at + 1, *done[group + 1 :])
                longer = tuple(_Reading(parameter.name, queue[at], way) for way in before)
                found[after] = (*found.get(after, ()), *longer)[:2]
    return found


def _names(way: _Reading | None, count: int) -> tuple[str, ...]:
    names = [""] * count
    while way is not None:
        names[way.slot] = way.name
        way = way.before
    return tuple(names)


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = (f"… {len(lines) - _MOST_LINES} more",) if len(lines) > _MOST_LINES else ()
    return (*lines[:_MOST_LINES], *more)
