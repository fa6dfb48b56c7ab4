"""Which parameters of the new model each group of an optimizer holds, and in which order.

A parameter stays in the group of what it was made of, and a group lists its parameters in the order
of the model. Where that leaves something open (a new parameter and several groups to choose from,
parts from groups with different settings), only the code that makes the optimizer can tell: the
`optimizer` setting names it, and then groups and order are read off the real one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr, Result, Source, children, sources

__all__ = ["NewModel", "OldGroups", "regrouped"]

WAYS = (
    'Name the code that makes the optimizer: optimizer = "yourpackage.module:function" in '
    "[tool.ckmigrate], a function of the model that returns it, or a list of several. Or leave the "
    "state out: --optimizer drop."
)

_MATRIX = 2


@dataclass(frozen=True, slots=True)
class OldGroups:
    """The groups of all optimizers of a file, numbered in one row.

    names      of the parameters of each group, in its order
    optimizer  to which each group belongs, by number
    alike      for each group, the first one with equal settings
    order      the parameters of the old model in its order; None where it is not known
    ndims      dimensions of each weight of the file
    buffers    weights that are no parameters, as far as that is known
    by_name    optimizers whose parameters go by names, so that their order means nothing
    """

    names: Sequence[Sequence[str]]
    optimizer: Sequence[int]
    alike: Sequence[int]
    order: Sequence[str] | None
    ndims: Mapping[str, int]
    buffers: Collection[str] = ()
    by_name: Collection[int] = ()

    @property
    def group_of(self) -> dict[str, int]:
        """The group of each parameter that is in one."""
        return {name: number for number, names in enumerate(self.names) for name in names}


@dataclass(frozen=True, slots=True)
class NewModel:
    """The model after the migration.

    entries     expressions of its weights, over the old names; of tied ones the first name only
    parameters  names in the order of `named_parameters()`; None where there is no model to tell
    trainable   those that require a gradient
    """

    entries: Mapping[str, Expr]
    parameters: Sequence[str] | None
    trainable: Collection[str] = ()


def regrouped(old: OldGroups, new: NewModel) -> tuple[tuple[str, ...], ...]:
    """The new parameters of every group, in order. MigrationError CKM577 where that is open."""
    names = list(new.entries) if new.parameters is None else list(new.parameters)
    placed = {name: group for name in names if (group := _inherited(name, old, new)) is not None}
    fresh = [name for name in names if name not in placed and _is_fresh(name, old, new)]
    for name in fresh:
        group = _group_of_fresh(name, old, new, placed)
        if group is not None:
            placed[name] = group
    members = [[n for n in names if placed.get(n) == group] for group in range(len(old.names))]
    return tuple(_ordered(group, found, old, new) for group, found in enumerate(members))


# --- descendants ------------------------------------------------------------------------------


def _inherited(name: str, old: OldGroups, new: NewModel) -> int | None:
    """The group of what a parameter was made of; None where it was in none."""
    expr, known = new.entries[name], old.group_of
    found = {source: known[source] for source in sources(expr) if source in known}
    if not found:
        return None
    outside = [s for s in _direct(expr) if s not in found and s not in old.buffers]
    if outside:
        why = f"'{next(iter(found))}' is in the optimizer and '{outside[0]}' is not"
        raise _open(f"'{name}' is made of a parameter that is trained and a frozen one", why)
    groups = sorted(set(found.values()))
    if len({(old.optimizer[g], old.alike[g]) for g in groups}) > 1:
        shown = ", ".join(f"'{source}' in group {group}" for source, group in found.items())
        why = f"They have different settings: {shown}"
        raise _open(f"'{name}' is made of parameters of several groups", why)
    return groups[0]


def _direct(expr: Expr) -> Iterator[str]:
    """The sources whose elements the expression has, rather than what a function makes of them:
    of a function's inputs some may be no parameters."""
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Source):
            yield node.name
        elif not isinstance(node, Result):
            stack += children(node)


# --- parameters that are new ------------------------------------------------------------------


def _is_fresh(name: str, old: OldGroups, new: NewModel) -> bool:
    """Whether no old parameter has become it. A frozen one that is still there stays out."""
    expr = new.entries[name]
    made_of = set(sources(expr))
    if made_of - set(old.buffers):
        return False
    return new.parameters is not None or (not made_of and expr.spec.dtype.kind == "float")


def _group_of_fresh(
    name: str, old: OldGroups, new: NewModel, placed: Mapping[str, int]
) -> int | None:
    if new.parameters is None:
        raise _open(f"'{name}' is new, and no model tells whether it is a parameter", None)
    if not _is_held(name, old, new, placed):
        return None
    if len(old.names) == 1:
        return 0
    fitting = _by_dimensions(new.entries[name].spec.ndim, old)
    if fitting is None:
        raise _open(
            f"'{name}' is new, and there are {len(old.names)} groups that it could belong to",
            "Nothing tells them apart that is sure to decide it",
        )
    return fitting


def _is_held(name: str, old: OldGroups, new: NewModel, placed: Mapping[str, int]) -> bool:
    """Whether the optimizer holds a parameter that is new: it does with those like it."""
    assert new.parameters is not None
    is_trainable = name in new.trainable
    others = [n for n in new.parameters if set(sources(new.entries[n])) - set(old.buffers)]
    held = {n in placed for n in others if (n in new.trainable) == is_trainable}
    if held == {True} or (not held and is_trainable):
        return True
    if held == {False} and not is_trainable:
        return False
    kind = "trainable" if is_trainable else "frozen"
    told = {True: "None of the others is", False: "Some of the others are, and some are not"}
    why = told[held == {False}] if held else f"There is no other {kind} one to go by"
    raise _open(f"'{name}' is new and {kind}, and may be in the optimizer or not", why)


def _by_dimensions(ndim: int, old: OldGroups) -> int | None:
    """The group, where one holds matrices and the other vectors, as for weight decay."""
    if len(old.names) != 2 or len(set(old.optimizer)) > 1:
        return None
    kinds = [{old.ndims[name] >= _MATRIX for name in names} for names in old.names]
    if sorted(map(sorted, kinds)) != [[False], [True]]:
        return None
    return kinds.index({ndim >= _MATRIX})


# --- order ------------------------------------------------------------------------------------


def _ordered(group: int, members: Sequence[str], old: OldGroups, new: NewModel) -> tuple[str, ...]:
    """A group in the order of the model stays in it. Another one keeps its own order, which is
    known where its parameters are what they were, in the same order among themselves."""
    names, held = old.names[group], set(old.names[group])
    if old.order is None or old.optimizer[group] in old.by_name:
        return tuple(members)
    in_model = [name for name in old.order if name in held]
    if in_model == list(names):
        return tuple(members)
    became = {sources(new.entries[name]): name for name in members}
    if list(became) == [(name,) for name in in_model] and len(became) == len(members):
        return tuple(became[(name,)] for name in names)
    raise _open(
        f"group {group} does not list its parameters in the order of the model",
        f"It begins with '{names[0]}', the model with '{in_model[0]}': which order the parameters "
        "of the new model have in it is not known",
    )


def _open(what: str, why: str | None) -> MigrationError:
    reason = f"{why}. " if why else ""
    return MigrationError(
        "CKM577",
        f"the groups of the optimizer are not certain: {what}",
        why=f"{reason}A parameter in another group or place would go on with other settings, or "
        "with the moments of another parameter.",
        fix=WAYS,
    )
