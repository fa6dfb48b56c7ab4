"""Revisions that the replay of a history could not reach, and that a file may be at all the same.

A script that reads metadata cannot be replayed on names and shapes alone, so what a checkpoint
looks like after it is not known beforehand. For one file it can be told: its own metadata are what
the script would read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ckmigrate.compile import State, trace
from ckmigrate.errors import CkmigrateError
from ckmigrate.revisions.graph import History
from ckmigrate.spec import Schema

__all__ = ["lookalikes", "same_shapes"]


def lookalikes(
    history: History,
    revision: str | None,
    state: State,
    params: Mapping[str, object],
    unknown: Collection[str],
) -> tuple[str, ...]:
    """The `unknown` revisions that a file which fits `revision` may as well be at.

    A revision is ruled out only where its scripts can be traced from the file as it is and lead to
    other names or shapes.
    """
    alike = {rev for rev in unknown if revision and revision not in history.ancestors(rev)}
    for head in history.heads:
        if revision is None or revision in {head, *history.ancestors(head)}:
            alike |= _on_the_way(history, revision, head, state, params, unknown)
    return tuple(script.id for script in history.order if script.id in alike)


def _on_the_way(
    history: History,
    revision: str | None,
    head: str,
    state: State,
    params: Mapping[str, object],
    unknown: Collection[str],
) -> set[str]:
    begin, found, is_lost = state.schema, set(), False
    for script in history.path_up(revision, head):
        if not is_lost:
            try:
                state = trace((script,), state, params).end
            except CkmigrateError:
                is_lost = True
        if script.id in unknown and (is_lost or same_shapes(begin, state.schema)):
            found.add(script.id)
    return found


def same_shapes(schema: Schema, other: Schema) -> bool:
    """Whether names, shapes and kinds of numbers are equal; the width of floats may differ."""
    return len(schema) == len(other) and all(
        name in other
        and other[name].shape == spec.shape
        and other[name].dtype.kind == spec.dtype.kind
        for name, spec in schema.items()
    )
