"""Strategies: what each accepts of a draft."""

from __future__ import annotations

import pytest

from ckmigrate.autogenerate.decide import (
    QUESTIONERS,
    accept_likely,
    can_run,
    todo_text,
)
from ckmigrate.autogenerate.proposal import Draft
from tests.autogenerate.drafts import DRAFT, proposal


@pytest.mark.parametrize(("accept", "accepted"), [("certain", [0, 3, 4]), ("all", [0, 1, 2, 3, 4])])
def test_a_strategy_accepts_by_certainty(accept: str, accepted: list[int]) -> None:
    choices = QUESTIONERS[accept](DRAFT)
    assert choices is not None
    assert [c.proposal for c in choices] == list(DRAFT.proposals)
    assert [n for n, c in enumerate(choices) if c.chosen] == accepted
    assert all(c.chosen in (None, c.proposal) for c in choices)


def test_none_writes_nothing() -> None:
    assert QUESTIONERS["none"](DRAFT) is None


def test_a_person_who_accepts_has_not_chosen_between_readings() -> None:
    assert [n for n, c in enumerate(accept_likely(DRAFT)) if c.chosen is None] == [2]


def test_what_has_no_call_stays_open_whatever_is_accepted() -> None:
    bare = proposal("todo", 'ck.todo("shape of \\"a\\" is odd")', "ambiguous")
    assert not can_run(bare)
    assert todo_text(bare) == 'shape of "a" is odd'
    assert todo_text(DRAFT.proposals[0]) is None
    choices = QUESTIONERS["all"](Draft((bare,)))
    assert choices is not None
    assert choices[0].chosen is None
