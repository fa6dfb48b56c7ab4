"""Complete renames, and errors that name both ends."""

from __future__ import annotations

import re

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import pair
from tests.names.asking import code_of, renamed


def test_pair_is_simultaneous() -> None:
    assert renamed("{a,b}.w", "{b,a}.w", ["a.w", "b.w", "c.w"]) == {"a.w": "b.w", "b.w": "a.w"}
    assert renamed("h.{i}", "h.{i+1}", ["h.0", "h.1"]) == {"h.0": "h.1", "h.1": "h.2"}


def test_pair_keeps_the_order_of_the_names() -> None:
    names = ["a.10", "a.9", "b", "a.x"]
    moved = pair("a.{i}", "c.{i}", iter(names))
    assert list(moved.items()) == [("a.10", "c.10"), ("a.9", "c.9"), ("a.x", "c.x")]


def test_pair_without_a_match_names_the_nearest_entries() -> None:
    names = [f"transformer.h.{layer}.attn.weight" for layer in range(12)]
    with pytest.raises(MigrationError) as raised:
        pair("transfomer.**", "x.**", names)
    assert code_of(raised) == "CKM505"
    assert "transformer.h.0.attn.weight" in str(raised.value)
    assert pair("transfomer.**", "x.**", names, optional=True) == {}


def test_pair_without_any_entry_says_so() -> None:
    with pytest.raises(MigrationError, match="no entry matches 'a'") as raised:
        pair("a", "b", [])
    assert code_of(raised) == "CKM505"


def test_pair_lists_every_collision_with_both_names() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("{m}.{i}.w", "m.{i}.w", ["a.0.w", "a.1.w", "b.0.w", "b.1.w"])
    assert code_of(raised) == "CKM506"
    assert raised.value.what == "'a.0.w' and 'b.0.w' would both become 'm.0.w'"
    assert raised.value.details == ("'a.1.w' and 'b.1.w' would both become 'm.1.w'",)


def test_pair_refuses_to_overwrite_an_entry() -> None:
    with pytest.raises(
        MigrationError, match="'a' would become 'b', which already exists"
    ) as raised:
        pair("a", "b", {"a": 1, "b": 2})
    assert code_of(raised) == "CKM506"


def test_pair_shortens_a_long_list_of_collisions() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("{i}", "x", [str(number) for number in range(100)])
    assert len(raised.value.details) == 20
    assert raised.value.details[-1] == "and 79 more"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a.{i}", "b.{j}"),
        ("*.a.*", "b.*"),
        ("a.*", "b.*.*"),
        ("a.**", "b.*"),
        ("{q,k,v}", "{a,b}"),
        ("{q,k}", "{a,b,c}"),
        ("a.w", "{a,b}.w"),
        ("{a,b}.{c,d}", "x.{a,b}"),
    ],
)
def test_pair_refuses_sides_that_do_not_fit_whatever_the_names(old: str, new: str) -> None:
    with pytest.raises(MigrationError) as raised:
        pair(old, new, [], optional=True)
    assert code_of(raised) == "CKM504"
    assert new in raised.value.what


def test_regular_expression_for_a_prefix_needs_the_dot() -> None:
    names = ["module.fc.w", "modulelist.0.w"]
    assert renamed("module.**", "**", names) == {"module.fc.w": "fc.w"}
    assert renamed(re.compile(r"module\.(?P<r>.+)"), "{r}", names) == {"module.fc.w": "fc.w"}


@pytest.mark.parametrize(
    ("old", "new", "name", "moved"),
    [
        ("a.**", "x.y.**", "a.b.c", "x.y.b.c"),
        ("a.**", "x.**", "a", "x"),
        ("a.**", "x", "a.b", "x"),
        ("**", "x.**", "a.b", "x.a.b"),
        ("a.**", "**", "a.b", "b"),
        ("a.*.w", "w.**", "a.b.w", "w.b"),
        ("{x}.{y}.{z:**}", "{z:**}.{y}_{x}", "a.b.c.d", "c.d.b_a"),
        ("{q,k}.w", "w.{q,k}", "k.w", "w.k"),
        ("{q,k}.w", "w.{k,q}", "k.w", "w.q"),
        ("{i:int}.w", "w.{i:int}", "7.w", "w.7"),
    ],
)
def test_pair_moves_what_was_captured(old: str, new: str, name: str, moved: str) -> None:
    assert renamed(old, new, [name]) == {name: moved}


def test_pair_exchanges_a_prefix_of_whole_segments_only() -> None:
    names = ["a.", "ab.c", "b.a.c", "a.b", "a", "a.."]
    assert renamed("a.**", "x.**", names) == {"a.b": "x.b", "a": "x", "a..": "x.."}


def test_pair_refuses_a_new_name_without_any_character() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("a.**", "**", ["a.b", "a"])
    assert code_of(raised) == "CKM503"
