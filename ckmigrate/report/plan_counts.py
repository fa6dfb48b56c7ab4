"""The entries of a plan by what happens to them."""

from __future__ import annotations

from ckmigrate.expr import Source, sources
from ckmigrate.lower import Compute
from ckmigrate.planning import Entry, Plan

__all__ = ["KINDS", "counts", "dropped", "kind_of"]

KINDS = ("unchanged", "renamed", "moved", "computed", "new", "dropped")


def kind_of(plan: Plan, entry: Entry) -> str:
    """ "unchanged", "renamed" (whole, under another name), "moved" (parts of old ones, in another
    order or shape), "computed", "new" (nothing of it comes from the file)."""
    if isinstance(entry.expr, Source):
        # Tied names are one source, which has the name of only one of them.
        is_same = plan.trace.start.entries.get(entry.name) == entry.expr
        return "unchanged" if is_same else "renamed"
    if not sources(entry.expr):
        return "new"
    if isinstance(entry.lowered, Compute) and entry.lowered.torch:
        return "computed"
    return "moved"


def dropped(plan: Plan) -> tuple[str, ...]:
    """Old names of which nothing is left."""
    return tuple(name for name, targets in plan.moves.items() if not targets)


def counts(plan: Plan) -> dict[str, int]:
    """How many entries of each of `KINDS`."""
    found = dict.fromkeys(KINDS, 0)
    for entry in plan.entries:
        found[kind_of(plan, entry)] += 1
    return found | {"dropped": len(dropped(plan))}
