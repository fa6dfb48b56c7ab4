"""A second name for the same values, and back: copy, tie, untie, merge_equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckmigrate.expr import Expr
from ckmigrate.names import substitute
from ckmigrate.operations.matching import groups, select
from ckmigrate.operations.split import members
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step, refuse

__all__ = ["Duplicate", "Merge", "Retie", "copy", "merge_equal", "tie", "untie"]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One entry under `count` names; `tied` ones share memory where the format can say so."""

    count: int
    tied: bool

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (inputs[0],) * self.count

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Merge())

    def describe(self) -> str:
        return "tied" if self.tied else "copied"


@dataclass(frozen=True, slots=True)
class Merge:
    """Several entries, checked to be equal, into one."""

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (inputs[0],)

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return tuple(
            Check(inputs[0], other, "the merged entries are equal")
            for other in inputs[1:]
            if other != inputs[0]
        )

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Duplicate(len(step.sources), tied=False))

    def describe(self) -> str:
        return "checked equal"


@dataclass(frozen=True, slots=True)
class Retie:
    """Equal entries that from here on share memory (`tied`), or no longer do."""

    tied: bool

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (inputs[0],) * len(inputs) if self.tied else inputs

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        return Merge().checks(inputs) if self.tied else ()

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        return step.back(Retie(not self.tied))

    def describe(self) -> str:
        return "tied" if self.tied else "untied"


def copy(specs: Schemas, source: str, target: str, *, optional: bool) -> tuple[Step, ...]:
    """Every match also under the target's name."""
    return _duplicate(specs, source, target, optional=optional, tied=False)


def tie(
    specs: Schemas,
    source: str,
    target: str,
    ties: Sequence[tuple[str, ...]],
    *,
    optional: bool,
) -> tuple[Step, ...]:
    """The target's name shares the source's tensor; an existing target is checked to be equal, and
    whatever is tied to it comes along."""
    return _duplicate(specs, source, target, ties, optional=optional, tied=True)


def _duplicate(
    specs: Schemas,
    source: str,
    target: str,
    ties: Sequence[tuple[str, ...]] = (),
    *,
    optional: bool,
    tied: bool,
) -> tuple[Step, ...]:
    steps = []
    for match in select(source, specs, optional=optional):
        pair = (match.name, substitute(target, match.captures))
        if pair[0] == pair[1]:
            raise refuse(
                "CKM532",
                f"'{pair[0]}' would become a second name of itself",
                why="Source and target are the same name.",
                fix="Give the second name.",
            )
        if tied and pair[1] in specs:
            _require_equal_specs(specs, pair)
            along = [name for group in ties if pair[1] in group for name in group]
            names = tuple(dict.fromkeys((*pair, *along)))
            steps.append(Step(names, names, Retie(tied=True)))
        else:
            steps.append(Step(pair[:1], pair, Duplicate(2, tied=tied)))
    return tuple(steps)


def untie(
    specs: Schemas, pattern: str, ties: Sequence[tuple[str, ...]], *, optional: bool
) -> tuple[Step, ...]:
    """Every tied group that has a match becomes independent copies."""
    matched = [match.name for match in select(pattern, specs, optional=optional)]
    chosen = [group for group in ties if set(group) & set(matched)]
    alone = [name for name in matched if not any(name in group for group in chosen)]
    if alone and not optional:
        raise refuse(
            "CKM532",
            f"'{alone[0]}' is not tied to anything",
            why="Only entries that share memory in the file, or that a script tied, can be untied.",
            fix="Leave the untie out, or say optional=True where only some checkpoints are tied.",
        )
    return tuple(Step(group, group, Retie(tied=False)) for group in chosen)


def merge_equal(
    specs: Schemas, sources: str | Sequence[str], target: str, *, optional: bool
) -> tuple[Step, ...]:
    """Every complete group of sources, checked to be equal, into one entry."""
    steps = []
    for group in groups(members(sources, "sources"), specs, optional=optional):
        _require_equal_specs(specs, group.names)
        steps.append(Step(group.names, (substitute(target, group.captures),), Merge()))
    return tuple(steps)


def _require_equal_specs(specs: Schemas, names: Sequence[str]) -> None:
    for name in names[1:]:
        if specs[name] != specs[names[0]]:
            raise refuse(
                "CKM523",
                f"'{names[0]}' and '{name}' cannot be equal",
                why=f"The first is {specs[names[0]]}, the second is {specs[name]}.",
                fix="Name entries of one shape and dtype.",
            )
