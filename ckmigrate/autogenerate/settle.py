"""Choices, replayed call by call: what runs is written, what does not stays open.

    choices ── replay on the old schema of every model ──▶ Settled: choices, and what is left over

An open choice is replayed as the likeliest of what it could be: the calls after it are written for
that case, and are what the script does once the todo has been replaced by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckmigrate.autogenerate.decide import Choice, can_run, todo_text
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.replay import run_call, start_of
from ckmigrate.compile import State, trace
from ckmigrate.errors import CkmigrateError
from ckmigrate.revisions.script import Script
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema
from ckmigrate.strict import compare, compare_ties, describe, describe_ties
from ckmigrate.ties import Ties

__all__ = ["Settled", "Side", "differences", "prove", "settle"]


Params = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Side:
    """One model: its schema where the scripts end, and the one that its code has now."""

    old: Snapshot
    new: Snapshot
    exempt: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.new.model


@dataclass(frozen=True, slots=True)
class Settled:
    """A draft that was decided.

    choices  in the order of their calls
    left     differences from the models that no call explains, one line each
    """

    choices: tuple[Choice, ...]
    left: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[Proposal, ...]:
        return tuple(choice.chosen for choice in self.choices if choice.chosen is not None)

    @property
    def open(self) -> tuple[Choice, ...]:
        return tuple(choice for choice in self.choices if choice.chosen is None)

    @property
    def is_complete(self) -> bool:
        """Whether the script leads to the models and needs nobody any more."""
        return not self.open and not self.left


def settle(choices: Iterable[Choice], sides: Sequence[Side]) -> Settled:
    """Replay the choices on every model."""
    states = [start_of(side.old) for side in sides]
    settled = []
    for choice in choices:
        done, states = _settled(choice, states)
        settled.append(done)
    texts = [text for choice in settled if (text := todo_text(choice.proposal)) is not None]
    # Behind the difference itself a todo may have a hint.
    told = {text.partition("; ")[0] for text in texts} | {*texts}
    left = (line for line in _left(states, sides) if " ".join(line.split()) not in told)
    return Settled(tuple(settled), tuple(left))


def prove(text: str, path: Path, revision: str, sides: Sequence[Side], params: Params) -> None:
    """Replay the text of a script as it would be loaded; AssertionError where it misses a model."""
    script = Script(path=path, id=revision, source=text)
    for side in sides:
        end = trace((script,), start_of(side.old), params).end
        missed = differences(end.schema, end.ties, side)
        if missed:
            raise AssertionError(f"the drafted script does not lead to the model: {missed[0]}")


def _settled(choice: Choice, states: list[State]) -> tuple[Choice, list[State]]:
    if choice.chosen is None:
        return choice, [_assumed(choice.proposal, state) for state in states]
    try:
        return choice, [run_call(choice.chosen.call, state) for state in states]
    except CkmigrateError as error:
        obstacle = " — ".join(text.rstrip(".") for text in (error.what, error.why) if text)
    except Exception as error:  # noqa: BLE001 - a person may have written anything
        obstacle = f"{type(error).__name__}: {error}"
    return replace(choice, chosen=None, obstacle=obstacle), states


def _assumed(proposal: Proposal, state: State) -> State:
    """The state after the likeliest reading of an open choice, where it can be had."""
    if not can_run(proposal):
        return state
    try:
        return run_call(proposal.call, state)
    except CkmigrateError:
        return state


def _left(states: Sequence[State], sides: Sequence[Side]) -> tuple[str, ...]:
    lines: dict[str, list[str]] = {}
    for state, side in zip(states, sides, strict=True):
        for line in differences(state.schema, state.ties, side):
            lines.setdefault(line, []).append(side.model)
    everywhere = len(sides)
    return tuple(
        line if len(models) == everywhere else f"{line} (model {', '.join(models)})"
        for line, models in lines.items()
    )


def differences(schema: Schema, ties: Ties, side: Side) -> tuple[str, ...]:
    """Where a schema is not that of the side's model, one line each."""
    lines = describe(compare(schema, side.new.schema, exempt=side.exempt))
    return lines + describe_ties(compare_ties(ties, side.new.ties, schema))
