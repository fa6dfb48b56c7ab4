"""A draft for a project: what the user said, what contents prove, and the engine, for all models.

[drop] ── --rename, [renames], equal contents, engine ── [init] ──▶ one Draft for each model
                                                               ──▶ one Draft for all
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ckmigrate.autogenerate.content import Contents, confirmed, equal_entries
from ckmigrate.autogenerate.decide import can_run
from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.initialisers import Initialisers
from ckmigrate.autogenerate.merge import merge_drafts
from ckmigrate.autogenerate.proposal import Draft, Hints, Proposal
from ckmigrate.autogenerate.settle import Side
from ckmigrate.autogenerate.sides import without
from ckmigrate.autogenerate.wishes import Wish, Wishes
from ckmigrate.names import select
from ckmigrate.snapshot import Snapshot

__all__ = ["Question", "make_draft"]

_UNKNOWN = Initialisers({}, {})
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be drafted.

    initialisers  by model: how it begins its entries
    contents      by model: two real checkpoints of it, before and after
    """

    sides: tuple[Side, ...]
    wishes: Wishes = field(default_factory=Wishes)
    initialisers: Mapping[str, Initialisers] = field(default_factory=dict)
    contents: Mapping[str, Contents] = field(default_factory=dict)


def make_draft(question: Question, choices: Mapping[str, str] = _NOTHING) -> Draft:
    """One draft that holds for every side; `choices` as `Hints.choices`."""
    drafts = [_of_side(question, side, choices) for side in question.sides]
    return _doubted(merge_drafts(drafts, question.sides))


def _doubted(draft: Draft) -> Draft:
    """Drops and inits that are guesses stand for a rename or a split that nobody understood, where
    there are both: whoever accepts what is likely has not said that old values may go."""
    guesses = {p.kind for p in draft.proposals if p.certainty == "guess"}
    if not {"drop", "init"} <= guesses:
        return draft
    return Draft(tuple(map(_as_question, draft.proposals)))


def _as_question(proposal: Proposal) -> Proposal:
    is_guess = proposal.certainty == "guess" and proposal.kind in ("drop", "init")
    return replace(proposal, certainty="ambiguous") if is_guess else proposal


def _of_side(question: Question, side: Side, choices: Mapping[str, str]) -> Draft:
    wishes, contents = question.wishes, question.contents.get(side.model)
    gone = {w: _matched(w, side.old) for w in wishes.drops}
    fresh = {w: _matched(w, side.new) for w in wishes.inits}
    old = without(side.old, {name for names in gone.values() for name in names})
    new = without(side.new, {name for names in fresh.values() for name in names})
    hints = Hints(
        tuple((w.pattern, w.value) for w in wishes.renames if _matched(w, old)),
        equal_entries(contents) if contents else {},
        choices,
    )
    known = question.initialisers.get(side.model, _UNKNOWN)
    found = draft(old, new, hints=hints, initialisers=known.texts, unsure=known.unsure)
    drops = tuple(_drop(wish, names) for wish, names in gone.items() if names)
    inits = _inits(new, side.new, fresh)
    whole = Draft(drops + found.proposals + inits)
    return confirmed(whole, side, contents) if contents else whole


def _matched(wish: Wish, snapshot: Snapshot) -> tuple[str, ...]:
    return tuple(match.name for match in select(wish.pattern, snapshot.schema))


def _drop(wish: Wish, names: tuple[str, ...]) -> Proposal:
    pattern, reason = (json.dumps(text, ensure_ascii=False) for text in (wish.pattern, wish.value))
    call = f"ck.drop({pattern}, reason={reason})"
    return Proposal("drop", call, names, (), "certain", "as you said")


def _inits(
    before: Snapshot, after: Snapshot, fresh: Mapping[Wish, Collection[str]]
) -> tuple[Proposal, ...]:
    """Entries that were said to be new: nothing is left over that they could come from."""
    texts = {name: wish.value for wish, names in fresh.items() for name in names}
    made = draft(before, after, initialisers=texts).proposals if texts else ()
    return tuple(
        replace(p, certainty="certain", why="as you said") if can_run(p) else p for p in made
    )
