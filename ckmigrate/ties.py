"""Groups of names that share one tensor, and what steps make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckmigrate.expr import Expr
from ckmigrate.operations.rename import Renames
from ckmigrate.step import Step

__all__ = ["Ties", "moved_ties", "still_tied"]

Ties = tuple[tuple[str, ...], ...]


def moved_ties(ties: Ties, steps: Sequence[Step]) -> Ties:
    """Tied groups under their new names; only one-to-one steps keep a tie.

    A member that was changed alone is still listed: the others may be changed alike later on. What
    is tied at a given moment is told by `still_tied`.
    """
    if not ties and isinstance(steps, Renames):
        return ()
    joined = [step.targets for step in steps if getattr(step.kernel, "tied", False) is True]
    if not ties and not joined:
        return ()
    moved = {name: _tied_name(step, name) for step in steps for name in step.sources}
    groups = [[new for name in group if (new := moved.get(name, name))] for group in ties]
    for names in joined:
        touching = [group for group in groups if set(group) & set(names)]
        groups = [group for group in groups if group not in touching]
        groups.append(list(dict.fromkeys([n for group in touching for n in group] + [*names])))
    return tuple(tuple(group) for group in groups if len(group) > 1)


def still_tied(ties: Ties, entries: Mapping[str, Expr]) -> Ties:
    """The parts of every group that are one tensor now."""
    found: list[tuple[str, ...]] = []
    for group in ties:
        parts: list[list[str]] = []
        for name in group:
            same = (part for part in parts if entries[part[0]] == entries[name])
            part = next(same, None)
            if part is None:
                parts.append([name])
            else:
                part.append(name)
        found += [tuple(part) for part in parts if len(part) > 1]
    return tuple(found)


def _tied_name(step: Step, name: str) -> str | None:
    """The name under which an entry stays tied to the others of its group; None where it leaves."""
    from ckmigrate.operations import copy, init

    kernel = step.kernel
    if isinstance(kernel, copy.Retie) and not kernel.tied:
        return None
    if len(step.sources) == len(step.targets) == 1:
        return step.targets[0]
    keeps = isinstance(kernel, (copy.Duplicate, copy.Retie, copy.Merge, init.Drop))
    return name if keeps and name in step.targets else None
