"""Running the calls of a draft on names and shapes alone, and what is then still different.

The calls run as a script would run them, on the symbolic checkpoint; so a draft that reaches the
new schema here makes a migration that does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ckmigrate.checkpoint import Checkpoint
from ckmigrate.compile import State, start
from ckmigrate.snapshot import Snapshot
from ckmigrate.strict import Difference, TieDifference, compare, compare_ties

__all__ = ["Remainder", "remainder", "replay", "run_call", "start_of"]


@dataclass(frozen=True, slots=True)
class Remainder:
    """What calls leave unexplained."""

    differences: tuple[Difference, ...]
    ties: tuple[TieDifference, ...]

    def __bool__(self) -> bool:
        return bool(self.differences or self.ties)


def start_of(old: Snapshot) -> State:
    """The old schema as a symbolic checkpoint."""
    return start(old.schema, ties=old.ties)


def run_call(call: str, state: State) -> State:
    """The state after one call; MigrationError where the call refuses, the state is unchanged."""
    from ckmigrate import init
    from ckmigrate.symbolic import concat, stack

    ck = Checkpoint(state.entries, ties=state.ties, meta=state.meta)
    exec(call, {"ck": ck, "init": init, "concat": concat, "stack": stack})
    ck.recorder.finish()
    return State(ck.entries, ck.ties, state.meta)


def replay(calls: Iterable[str], old: Snapshot) -> State:
    """The old schema after all calls, in their order; MigrationError as `run_call`."""
    state = start_of(old)
    for call in calls:
        state = run_call(call, state)
    return state


def remainder(state: State, new: Snapshot) -> Remainder:
    """Where a state is not the new schema: names, shapes, dtypes and ties."""
    ties = compare_ties(state.ties, new.ties, state.entries)
    return Remainder(compare(state.schema, new.schema), ties)
