"""One draft for several models: what they agree on, and what differs."""

from __future__ import annotations

from ckmigrate.autogenerate.decide import accept_all
from ckmigrate.autogenerate.merge import merge_drafts
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.settle import settle
from tests.autogenerate.drafts import proposal, side

MOVE = proposal("rename", 'ck.rename("body.**", "enc.**")', sources=("body.w",), targets=("enc.w",))
SMALL = side({"body.w": (2,)}, {"enc.w": (2,)}, "small")
LARGE = side({"body.w": (4,), "body.b": (4,)}, {"enc.w": (4,), "enc.b": (4,)}, "large")


def test_equal_proposals_are_one_of_all_entries_and_the_least_certain() -> None:
    other = proposal("rename", MOVE.call, "guess", sources=("body.w", "body.b"))
    (merged,) = merge_drafts([Draft((MOVE,)), Draft((other,))], [SMALL, LARGE]).proposals
    assert merged.certainty == "guess"
    assert merged.sources == ("body.w", "body.b")


def test_the_pattern_of_one_serves_all_where_it_does_the_same() -> None:
    single = proposal("rename", 'ck.rename("body.w", "enc.w")')
    drafts = [Draft((single,)), Draft((MOVE,))]
    assert merge_drafts(drafts, [SMALL, LARGE]) == drafts[1]


def test_what_only_one_model_needs_is_ambiguous_and_spares_the_others() -> None:
    aux = side({"body.w": (4,), "aux": (1,)}, {"enc.w": (4,)}, "large")
    drop = proposal("drop", 'ck.drop("aux", reason="gone")', sources=("aux",))
    draft = merge_drafts([Draft((MOVE,)), Draft((MOVE, drop))], [SMALL, aux])
    assert [p.certainty for p in draft.proposals] == ["certain", "ambiguous"]
    assert draft.proposals[1].call == 'ck.drop("aux", reason="gone", optional=True)'
    assert draft.proposals[1].why.startswith("only for model 'large'")
    assert settle(accept_all(draft), [SMALL, aux]).is_complete


def test_models_that_contradict_each_other_are_asked_about() -> None:
    one = side({"a": (2,)}, {"b": (2,)}, "one")
    two = side({"a": (2,)}, {"c": (2,)}, "two")
    votes = [rename("a", "b"), rename("a", "c")]
    draft = merge_drafts([Draft((vote,)) for vote in votes], [one, two])
    assert {p.certainty for p in draft.proposals} == {"ambiguous"}
    assert not settle(accept_all(draft), [one, two]).is_complete


def test_calls_keep_the_order_of_each_draft() -> None:
    one = side({"a": (2,), "x": (2,)}, {"c": (2,), "x": (2,)}, "one")
    two = side({"a": (2,), "x": (2,)}, {"c": (2,), "y": (2,)}, "two")
    first, second, between = rename("a", "b"), rename("b", "c"), rename("x", "y")
    drafts = [Draft((first, second)), Draft((first, between, second))]
    order = [p.targets[0] for p in merge_drafts(drafts, [one, two]).proposals]
    assert order.index("b") < order.index("c")
    assert order.index("b") < order.index("y")


def rename(old: str, new: str) -> Proposal:
    return proposal("rename", f'ck.rename("{old}", "{new}")', sources=(old,), targets=(new,))
