"""Renames: what is certain, what is a guess, and what must be asked."""

from __future__ import annotations

from dataclasses import replace

from ckmigrate.autogenerate.decide import accept_certain
from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.proposal import Hints
from ckmigrate.autogenerate.settle import Side, settle
from tests.autogenerate.schemas import calls, left, linear, snapshot, transformer


def test_equal_schemas_need_nothing() -> None:
    assert draft(snapshot(transformer()), snapshot(transformer())).proposals == ()


def test_a_prefix_that_many_names_share_is_one_certain_call() -> None:
    old, new = snapshot(transformer("transformer.")), snapshot(transformer("encoder."))
    found = draft(old, new)
    assert calls(found, "certain") == ['ck.rename("transformer.**", "encoder.**")']
    assert calls(found) == calls(found, "certain")
    assert not left(found, old, new)


def test_everything_under_a_prefix() -> None:
    old = snapshot(transformer() | linear("head", 4, 8))
    new = snapshot({f"backbone.{name}": spec.shape for name, spec in old.schema.items()})
    assert calls(draft(old, new), "certain") == ['ck.rename("**", "backbone.**")']
    assert calls(draft(new, old), "certain") == ['ck.rename("backbone.**", "**")']


def test_a_module_of_every_block_is_one_call() -> None:
    old, new = snapshot(transformer()), snapshot(transformer(attn="self_attn"))
    found = draft(old, new)
    assert calls(found, "certain") == ['ck.rename("blocks.{i}.attn.**", "blocks.{i}.self_attn.**")']
    assert not left(found, old, new)


def test_a_lookalike_beside_the_new_place_is_no_certainty() -> None:
    old = snapshot(transformer("net."))
    new = snapshot(transformer("encoder.") | transformer("teacher.net."))
    assert not [p for p in draft(old, new).proposals if p.certainty == "certain"]


def test_a_weight_that_may_have_changed_its_last_name_instead_is_no_certainty() -> None:
    old = snapshot({f"net.blocks.{n}.attn.{leaf}": (4, 4) for n in range(2) for leaf in ("w",)})
    kept = {f"net.blocks.{n}.attn.weight": (4, 4) for n in range(2)}
    new = snapshot(kept | {f"core.blocks.{n}.attn.w": (4, 4) for n in range(2)})
    assert not calls(draft(old, new), "certain")


def test_a_module_that_leaves_its_bias_behind_is_no_certainty() -> None:
    old = snapshot(linear("net.block.attn", 4, 4))
    new = snapshot(linear("core.block.attn", 4, 4) | {"net.block.attn.bias": (4,)})
    assert not calls(draft(old, new), "certain")


def test_one_module_of_equal_shape_is_a_guess() -> None:
    old, new = snapshot(linear("classifier.1", 3, 4)), snapshot(linear("head", 3, 4))
    found = draft(old, new)
    assert calls(found, "guess") == ['ck.rename("classifier.1.{p}", "head.{p}")']
    assert not left(found, old, new)


def test_a_choice_is_made_where_its_question_was() -> None:
    old, new = snapshot(linear("one", 3, 3)), snapshot(linear("a", 3, 3) | linear("b", 3, 3))
    (first, *_) = draft(old, new).proposals
    assert first.certainty == "ambiguous"
    other = first.alternatives[0].call
    assert other != first.call
    chosen = draft(old, new, hints=Hints(choices={first.call: other})).proposals[0]
    assert (chosen.call, chosen.certainty) == (other, "certain")


def test_a_hint_is_taken_as_it_is() -> None:
    old, new = snapshot(linear("one", 3, 3)), snapshot(linear("a", 3, 3) | linear("b", 3, 3))
    found = draft(old, new, hints=Hints(renames=(("one.**", "b.**"),)))
    assert calls(found, "certain") == ['ck.rename("one.**", "b.**")']


def test_what_somebody_renamed_is_never_dropped() -> None:
    """A name of theirs that the model does not have is a question, whatever else is dropped."""
    old = snapshot(linear("fc", 3, 3) | linear("aux", 7, 7))
    new = snapshot(linear("head", 5, 9))
    found = draft(old, new, hints=Hints(renames=(("fc.**", "head.fcc.**"),)))
    drops = [p.sources for p in found.proposals if p.kind == "drop"]
    assert drops == [("aux.weight", "aux.bias")]
    todos = [p.call for p in found.proposals if p.kind == "todo"]
    assert any("head.fcc.weight" in call for call in todos)


def test_layers_that_somebody_renamed_are_not_dropped_with_the_list() -> None:
    """`stem` became the third of blocks that the model has two of."""
    blocks = linear("blocks.0", 3, 3) | linear("blocks.1", 3, 3)
    old, new = snapshot(blocks | linear("stem", 3, 3)), snapshot(blocks)
    hints = Hints(renames=(("stem.**", "blocks.2.**"),))
    readings = [
        r.call for p in draft(old, new, hints=hints).proposals for r in (p, *p.alternatives)
    ]
    assert not [call for call in readings if 'drop("blocks.2.' in call]
    three = snapshot(blocks | linear("blocks.2", 3, 3))
    readings = [r.call for p in draft(three, new).proposals for r in (p, *p.alternatives)]
    assert [call for call in readings if 'drop("blocks.2.' in call]


def test_a_second_name_that_somebody_gave_is_not_dropped() -> None:
    shapes = {"embed.weight": (4, 3), "out.weight": (4, 3)}
    tied = replace(snapshot(shapes), ties=(tuple(shapes),))
    new = snapshot({"embed.weight": (4, 3), "head.bias": (4,)})
    assert "drop" in {p.kind for p in draft(tied, new).proposals}
    hints = Hints(renames=(("out.weight", "head.wieght"),))
    assert "drop" not in {p.kind for p in draft(tied, new, hints=hints).proposals}


def test_a_slip_inside_of_a_module_gets_a_hint() -> None:
    old, new = snapshot(linear("fc", 3, 3)), snapshot(linear("head", 5, 9))
    found = draft(old, new, hints=Hints(renames=(("fc.**", "head.fcc.**"),)))
    todos = [p.call for p in found.proposals if p.kind == "todo"]
    assert any("renamed so as you said" in call and "which has head." in call for call in todos)
    settled = settle(accept_certain(found), [Side(old, new)])
    assert not [line for line in settled.left if "head.fcc" in line], "told once"
