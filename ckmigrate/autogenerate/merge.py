"""One draft that holds for several models: one history serves every size of an architecture.

Proposals that all models make are one proposal. What only some of them make is ambiguous, and says
for which it was made; it is written so that it may find nothing in the others, if that helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ckmigrate.autogenerate.decide import can_run
from ckmigrate.autogenerate.proposal import Certainty, Draft, Proposal
from ckmigrate.autogenerate.replay import replay, run_call, start_of
from ckmigrate.autogenerate.settle import Side, differences
from ckmigrate.compile import State
from ckmigrate.errors import CkmigrateError

__all__ = ["merge_drafts"]

_WORST: tuple[Certainty, ...] = ("certain", "guess", "ambiguous")


@dataclass(frozen=True, slots=True)
class _Vote:
    """A proposal, as one model makes it."""

    model: str
    proposal: Proposal


def merge_drafts(drafts: Sequence[Draft], sides: Sequence[Side]) -> Draft:
    """The draft for all sides, of one draft for each."""
    if len({_calls(draft) for draft in drafts}) == 1:
        return Draft(tuple(map(_merged, zip(*(d.proposals for d in drafts), strict=True))))
    for draft in drafts:
        if _serves(draft, drafts, sides):
            return draft
    return Draft(tuple(_united(drafts, sides)))


def _calls(draft: Draft) -> tuple[str, ...]:
    return tuple(proposal.call for proposal in draft.proposals)


def _merged(same: Sequence[Proposal]) -> Proposal:
    first = same[0]
    names = [tuple(dict.fromkeys(n for p in same for n in side(p))) for side in (_old, _new)]
    worst = max((p.certainty for p in same), key=_WORST.index)
    return replace(first, sources=names[0], targets=names[1], certainty=worst)


def _old(proposal: Proposal) -> tuple[str, ...]:
    return proposal.sources


def _new(proposal: Proposal) -> tuple[str, ...]:
    return proposal.targets


def _serves(draft: Draft, drafts: Sequence[Draft], sides: Sequence[Side]) -> bool:
    """Whether the patterns of one draft do on every model exactly what its own draft does."""
    for own, side in zip(drafts, sides, strict=True):
        mine, theirs = _replayed(draft, side), _replayed(own, side)
        if mine is None or theirs is None or mine.entries != theirs.entries:
            return False
        if _doubts(own) > _doubts(draft) or differences(mine.schema, mine.ties, side):
            return False
    return True


def _doubts(draft: Draft) -> int:
    return sum(_WORST.index(proposal.certainty) for proposal in draft.proposals)


def _replayed(draft: Draft, side: Side) -> State | None:
    if not all(map(can_run, draft.proposals)):
        return None
    try:
        return replay(_calls(draft), side.old)
    except CkmigrateError:
        return None


def _united(drafts: Sequence[Draft], sides: Sequence[Side]) -> Iterator[Proposal]:
    """Every proposal once, each draft's in its own order."""
    states = [start_of(side.old) for side in sides]
    for call, votes in _in_order(drafts, sides):
        proposal = _merged([vote.proposal for vote in votes])
        if len(votes) < len(sides):
            models = ", ".join(f"'{vote.model}'" for vote in votes)
            why = f"only for model {models}: {proposal.why}"
            proposal = replace(proposal, certainty="ambiguous", why=why)
            proposal = _sparing(proposal, states)
        states = [_after(proposal.call, state) or _after(call, state) or state for state in states]
        yield proposal


def _in_order(
    drafts: Sequence[Draft], sides: Sequence[Side]
) -> list[tuple[str, tuple[_Vote, ...]]]:
    """Calls with those who make them; a call comes after all that precede it in any draft."""
    votes: dict[str, list[_Vote]] = {}
    order: list[str] = []
    for draft, side in zip(drafts, sides, strict=True):
        place = 0
        for proposal in draft.proposals:
            if proposal.call in votes:
                place = max(place, order.index(proposal.call) + 1)
            else:
                votes[proposal.call] = []
                order.insert(place, proposal.call)
                place += 1
            votes[proposal.call].append(_Vote(side.model, proposal))
    return [(call, tuple(votes[call])) for call in order]


def _sparing(proposal: Proposal, states: Sequence[State]) -> Proposal:
    """The same call with `optional=True`, where that lets it run on every model."""
    lines = proposal.call.strip().splitlines()
    if len(lines) != 1 or not can_run(proposal) or not lines[0].endswith(")"):
        return proposal
    call = f"{lines[0][:-1]}, optional=True)"
    if all(_after(call, state) is not None for state in states):
        return replace(proposal, call=call)
    return proposal


def _after(call: str, state: State) -> State | None:
    try:
        return run_call(call, state)
    except (CkmigrateError, TypeError):
        return None
