"""Choices that are replayed: what runs is written, the rest stays open or is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.autogenerate.decide import Choice, accept_all, accept_certain
from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.autogenerate.settle import prove, settle
from tests.autogenerate.drafts import ALT, DRAFT, SIDE, proposal, side


def test_a_whole_draft_leads_to_the_model() -> None:
    settled = settle(accept_all(DRAFT), [SIDE])
    assert settled.is_complete
    assert settled.written == DRAFT.proposals


def test_calls_after_an_open_choice_are_kept() -> None:
    choices = [Choice(p, None if p.kind == "rename" else p) for p in DRAFT.proposals]
    settled = settle(choices, [SIDE])
    assert [choice.proposal.kind for choice in settled.open] == ["rename", "rename"]
    assert [p.kind for p in settled.written] == ["split", "init", "drop"]
    assert not settled.left


def test_an_alternative_is_replayed_in_its_place() -> None:
    choices = [Choice(p, ALT if p.alternatives else p) for p in DRAFT.proposals]
    assert settle(choices, [SIDE]).is_complete


@pytest.mark.parametrize(
    "call",
    [
        'ck.rename("nobody.**", "x.**")',
        "ck.rename(1, 2, 3, 4)",
        "undefined",
        "ck.nothing()",
        'ck.rename("aux", "scale")',
    ],
)
def test_a_call_that_does_not_run_stays_open_and_says_why(call: str) -> None:
    odd = proposal("rename", call)
    choices = accept_all(Draft((DRAFT.proposals[3], odd, *DRAFT.proposals[:3])))
    settled = settle(choices, [SIDE])
    assert [choice.proposal for choice in settled.open] == [odd]
    assert settled.open[0].obstacle
    assert any("aux" in line for line in settled.left)


def test_what_no_call_explains_is_left_over_once() -> None:
    settled = settle(accept_certain(Draft(DRAFT.proposals[:1])), [SIDE])
    assert not settled.is_complete
    assert any(line.startswith("missing") and "scale" in line for line in settled.left)
    text = " ".join(next(line for line in settled.left if "scale" in line).split())
    told = proposal("todo", f"ck.todo({text!r})", "ambiguous")
    again = settle(accept_certain(Draft((DRAFT.proposals[0], told))), [SIDE])
    assert len(again.left) == len(settled.left) - 1


def test_what_differs_in_one_model_names_it() -> None:
    small = side({"a": (1,)}, {"b": (1,)}, "small")
    large = side({"a": (1,)}, {"b": (1,), "c": (1,)}, "large")
    settled = settle(
        accept_all(Draft((proposal("rename", 'ck.rename("a", "b")'),))), [small, large]
    )
    assert len(settled.left) == 1
    assert settled.left[0].endswith("(model large)")


def test_a_script_that_misses_a_model_is_no_proof() -> None:
    text = 'revision = "0123456789"\nrevises = None\napi = 1\n\n\ndef upgrade(ck):\n    pass\n'
    with pytest.raises(AssertionError, match="does not lead to the model"):
        prove(text, Path("x.py"), "0123456789", [SIDE], {})
