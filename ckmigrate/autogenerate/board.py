"""The proposals so far, and the schema under them: where the next step of a draft looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from ckmigrate.autogenerate.could_be import could_be
from ckmigrate.autogenerate.patterns import rename_call, renames
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.replay import run_call, start_of
from ckmigrate.compile import State
from ckmigrate.errors import MigrationError
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema, TensorSpec

__all__ = ["Board", "counted"]


@dataclass(frozen=True)
class _View:
    """One state against the new schema; each side is compared once."""

    schema: Schema
    new: Schema

    @cached_property
    def vanished(self) -> dict[str, TensorSpec]:
        return {name: spec for name, spec in self.schema.items() if name not in self.new}

    @cached_property
    def appeared(self) -> dict[str, TensorSpec]:
        return {name: spec for name, spec in self.new.items() if name not in self.schema}

    @cached_property
    def changed(self) -> dict[str, tuple[TensorSpec, TensorSpec]]:
        new = self.new
        both = ((name, spec, new[name]) for name, spec in self.schema.items() if name in new)
        return {name: (spec, wanted) for name, spec, wanted in both if spec != wanted}


class Board:
    """Every call is run as soon as it is proposed, so a later one is written for what it will meet.

    Two states are kept: under all proposals, and under the certain ones alone, which is what runs
    where nobody is there to ask. A proposal that rests on a guess is a guess.

    wished  names that somebody gave to entries which they want to keep: never dropped
    """

    def __init__(
        self, old: Snapshot, new: Snapshot, choices: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.new = new
        self._choices = choices
        self.state = start_of(old)
        self.proposals: list[Proposal] = []
        self.wished: frozenset[str] = frozenset()
        self._view = _View(self.state.schema, new.schema)
        self._certain = self.state
        self._shaky: dict[str, TensorSpec] = {}
        self._claimed: set[TensorSpec] = set()

    @property
    def schema(self) -> Schema:
        """Names and specs under all proposals so far."""
        return self._view.schema

    @property
    def vanished(self) -> Mapping[str, TensorSpec]:
        """Entries that the new schema has no name for."""
        return self._view.vanished

    @property
    def appeared(self) -> Mapping[str, TensorSpec]:
        """Entries of the new schema that are not there yet."""
        return self._view.appeared

    @property
    def changed(self) -> Mapping[str, tuple[TensorSpec, TensorSpec]]:
        """Entries whose name is kept and whose spec is not: what it is, what it must be."""
        return self._view.changed

    def rename(
        self,
        pairs: Mapping[str, str],
        certainty: Certainty,
        why: str,
        alternatives: tuple[Proposal, ...] = (),
    ) -> bool:
        """Propose renames as patterns; whether any of them could be made.

        why  said of every pattern, after the number of its entries
        """
        states = (self.state.entries, self._certain.entries)
        made = False
        for rename, part in renames(pairs, states):
            names = tuple(part), tuple(part.values())
            told = f"{counted(part)}, {why}"
            proposal = Proposal(
                "rename", rename_call(rename), *names, certainty, told, alternatives
            )
            made |= self.add(proposal)
        return made

    def add(self, proposal: Proposal) -> bool:
        """Run a proposal and keep it; False, and nothing changes, where its call refuses.

        Where somebody chose another call for it, that one is run, as certain as they are.
        """
        if proposal.call in self._choices:
            return self._add_chosen(proposal, self._choices[proposal.call])
        after = _after(proposal, self.state)
        if after is None:
            return False
        if proposal.certainty == "certain":
            alone = None if self._rests_on_guess(proposal) else _after(proposal, self._certain)
            if alone is None:
                proposal = replace(proposal, certainty="guess")
            else:
                self._certain = alone
        if proposal.certainty != "certain":
            self._open(proposal, after)
        self.state = after
        self._view = _View(after.schema, self.new.schema)
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

    def _open(self, proposal: Proposal, after: State) -> None:
        now = self.state.entries
        self._claimed |= {now[name].spec for name in proposal.sources if name in now}
        self._shaky |= {n: after.entries[n].spec for n in proposal.targets if n in after.entries}

    def _rests_on_guess(self, proposal: Proposal) -> bool:
        return not self._shaky.keys().isdisjoint(proposal.sources)

    def may_be_wanted(self, spec: TensorSpec) -> bool:
        """Whether something new could be made of it that is not certain to come from elsewhere."""
        wanted = {*self.appeared.values(), *self._shaky.values()}
        return any(could_be(spec, other) for other in wanted)

    def may_be_given(self, spec: TensorSpec, gone: Collection[TensorSpec]) -> bool:
        """Whether it could be made of something that went, or that a guess gave away."""
        return any(could_be(other, spec) for other in {*gone, *self._claimed})


def counted(entries: Collection[str]) -> str:
    """ "one entry", "24 entries"."""
    return f"{len(entries)} entries" if len(entries) != 1 else "one entry"


def _effect(before: State, after: State) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a call took or changed, and those that it made or changed."""
    old, new = before.entries, after.entries
    taken = tuple(n for n, e in old.items() if n not in new or new[n] is not e)
    return taken, tuple(n for n, e in new.items() if n not in old or old[n] is not e)


def _after(proposal: Proposal, state: State) -> State | None:
    """The state after it; None where the call refuses, or does anything but what it says."""
    try:
        after = run_call(proposal.call, state)
    except MigrationError:
        return None
    taken, given = map(set, _effect(state, after))
    says = set(proposal.sources), set(proposal.targets)
    kept = says[0] & says[1]
    exact = says[0] - kept <= taken <= says[0] and says[1] - kept <= given <= says[1]
    return after if exact else None
