"""Equal content under another name is proof, also where the names say something else."""

from __future__ import annotations

from ckmigrate.autogenerate.draft import draft
from ckmigrate.autogenerate.proposal import Hints
from ckmigrate.autogenerate.replay import replay
from ckmigrate.expr import sources
from tests.autogenerate.schemas import calls, left, linear, snapshot, transformer


def test_modules_that_changed_places_are_one_call() -> None:
    both = snapshot(linear("one", 4, 4) | linear("two", 4, 4))
    places = {"one": "two", "two": "one"}
    equal = {f"{n}.{p}": f"{o}.{p}" for n, o in places.items() for p in ("weight", "bias")}
    found = draft(both, both, hints=Hints(equal=equal))
    assert calls(found, "certain") == ['ck.rename("{one,two}.{p}", "{two,one}.{p}")']
    assert not left(found, both, both)


def test_a_layer_before_all_others_moves_them_up() -> None:
    old, new = snapshot(transformer(depth=3)), snapshot(transformer(depth=4))
    equal = {
        name.replace(f"blocks.{n}.", f"blocks.{n + 1}."): name
        for n in range(3)
        for name in old.schema
        if name.startswith(f"blocks.{n}.")
    }
    found = draft(old, new, hints=Hints(equal=equal))
    assert calls(found, "certain")[0] == 'ck.rename("blocks.{i}.**", "blocks.{i+1}.**")'
    assert not left(found, old, new)
    entries = replay(calls(found), old).entries
    assert all(sources(entries[name]) == (was,) for name, was in equal.items())


def test_a_layer_that_went_from_the_front_is_dropped_first() -> None:
    old, new = snapshot(transformer(depth=3)), snapshot(transformer(depth=2))
    equal = {
        name.replace(f"blocks.{n}.", f"blocks.{n - 1}."): name
        for n in (1, 2)
        for name in old.schema
        if name.startswith(f"blocks.{n}.")
    }
    found = draft(old, new, hints=Hints(equal=equal))
    assert not left(found, old, new)
    entries = replay(calls(found), old).entries
    assert all(sources(entries[name]) == (was,) for name, was in equal.items())
