"""The proposals so far, and the schema under them: where the next step of a draft looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ckmigrate.autogenerate.patterns import rename_call, renames
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.replay import run_call, start_of
from ckmigrate.compile import State
from ckmigrate.errors import MigrationError
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema, TensorSpec

__all__ = ["Board"]


class Board:
    """Every call is run as soon as it is proposed, so a later one is written for what it will meet.

    Two states are kept: under all proposals, and under the certain ones alone, which is what runs
    where nobody is there to ask. A proposal that rests on a guess is a guess.
    """

    def __init__(
        self, old: Snapshot, new: Snapshot, choices: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.new = new
        self._choices = choices
        self.state = start_of(old)
        self.proposals: list[Proposal] = []
        self._certain = self.state
        self._shaky: set[str] = set()

    @property
    def schema(self) -> Schema:
        """Names and specs under all proposals so far."""
        return self.state.schema

    @property
    def vanished(self) -> dict[str, TensorSpec]:
        """Entries that the new schema has no name for."""
        return {n: s for n, s in self.schema.items() if n not in self.new.schema}

    @property
    def appeared(self) -> dict[str, TensorSpec]:
        """Entries of the new schema that are not there yet."""
        entries = self.state.entries
        return {n: s for n, s in self.new.schema.items() if n not in entries}

    @property
    def changed(self) -> dict[str, tuple[TensorSpec, TensorSpec]]:
        """Entries whose name is kept and whose spec is not: what it is, what it must be."""
        now, new = self.schema, self.new.schema
        return {n: (s, new[n]) for n, s in now.items() if n in new and new[n] != s}

    def rename(
        self,
        pairs: Mapping[str, str],
        certainty: Certainty,
        why: str,
        alternatives: tuple[Proposal, ...] = (),
    ) -> bool:
        """Propose renames as patterns; whether any of them could be made."""
        states = (self.state.entries, self._certain.entries)
        made = False
        for rename, part in renames(pairs, states):
            names = tuple(part), tuple(part.values())
            proposal = Proposal("rename", rename_call(rename), *names, certainty, why, alternatives)
            made |= self.add(proposal)
        return made

    def add(self, proposal: Proposal) -> bool:
        """Run a proposal and keep it; False, and nothing changes, where its call refuses.

        Where somebody chose another call for it, that one is run, as certain as they are.
        """
        if proposal.call in self._choices:
            return self._add_chosen(proposal, self._choices[proposal.call])
        after = _after(proposal.call, self.state)
        if after is None:
            return False
        if proposal.certainty == "certain":
            alone = None if self._rests_on_guess(proposal) else _after(proposal.call, self._certain)
            if alone is None:
                proposal = replace(proposal, certainty="guess")
            else:
                self._certain = alone
        if proposal.certainty != "certain":
            self._shaky.update(proposal.targets)
        self.state = after
        self.proposals.append(proposal)
        return True

    def _add_chosen(self, proposal: Proposal, call: str) -> bool:
        if not call:
            return False
        if call == proposal.call:
            chosen = replace(proposal, certainty="certain", why="as you said", alternatives=())
        else:
            sources, targets = _effect(self.state, run_call(call, self.state))
            chosen = Proposal(proposal.kind, call, sources, targets, "certain", "as you said")
        settled = (proposal.call, call)
        self._choices = {old: new for old, new in self._choices.items() if old not in settled}
        return self.add(chosen)

    def _rests_on_guess(self, proposal: Proposal) -> bool:
        return not self._shaky.isdisjoint(proposal.sources)


def _effect(before: State, after: State) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a call took or changed, and those that it made or changed."""
    old, new = before.entries, after.entries
    taken = tuple(n for n, e in old.items() if n not in new or new[n] is not e)
    return taken, tuple(n for n, e in new.items() if n not in old or old[n] is not e)


def _after(call: str, state: State) -> State | None:
    try:
        return run_call(call, state)
    except MigrationError:
        return None
