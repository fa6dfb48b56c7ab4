"""Alternatives, groups and stacks."""

from __future__ import annotations

import re

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import expand, groups, stack_groups
from tests.names.asking import code_of


def test_expand_writes_out_the_alternatives_in_order() -> None:
    assert expand("attn.{q,k,v}.{p}") == ("attn.q.{p}", "attn.k.{p}", "attn.v.{p}")
    assert expand("w{,_orig}") == ("w", "w_orig")
    assert expand("attn.{p}") == ("attn.{p}",)


def test_expand_refuses_two_groups_and_expressions() -> None:
    with pytest.raises(MigrationError) as raised:
        expand("{a,b}.{c,d}")
    assert code_of(raised) == "CKM501"
    with pytest.raises(MigrationError) as raised:
        expand(re.compile("a"))  # type: ignore[arg-type]
    assert code_of(raised) == "CKM504"


def test_groups_join_members_by_equal_captures() -> None:
    names = [f"b.{layer}.{part}.w" for part in "vqk" for layer in (10, 9)]
    found = groups(expand("b.{i}.{q,k,v}.w"), names)
    assert [dict(group.captures) for group in found] == [{"i": "9"}, {"i": "10"}]
    assert found[0].names == ("b.9.q.w", "b.9.k.w", "b.9.v.w")


def test_groups_of_plain_names_are_one_group() -> None:
    assert [group.names for group in groups(["b", "a"], ["a", "b"])] == [("b", "a")]


def test_groups_name_what_each_incomplete_group_has_and_lacks() -> None:
    names = ["b.0.q", "b.0.k", "b.0.v", "b.1.q", "b.1.v", "b.2.k"]
    with pytest.raises(MigrationError) as raised:
        groups(expand("b.{i}.{q,k,v}"), names)
    assert code_of(raised) == "CKM507"
    assert raised.value.what == "the group i=1 has b.1.q, b.1.v but lacks b.1.k"
    assert raised.value.details == ("the group i=2 has b.2.k but lacks b.2.q, b.2.v",)


def test_groups_refuse_no_match_and_members_of_different_captures() -> None:
    with pytest.raises(MigrationError) as raised:
        groups(["a.{i}", "b.{i}"], ["c.1"])
    assert code_of(raised) == "CKM505"
    assert groups(["a.{i}", "b.{i}"], ["c.1"], optional=True) == ()
    with pytest.raises(MigrationError) as raised:
        groups(["a.{i}", "b.{j}"], ["a.1", "b.1"])
    assert code_of(raised) == "CKM504"


def test_groups_refuse_two_names_for_one_member() -> None:
    with pytest.raises(MigrationError) as raised:
        groups([re.compile(r"[ab]\.(?P<i>\d)"), "c.{i}"], ["a.1", "b.1", "c.1"])
    assert code_of(raised) == "CKM506"


def test_stack_groups_order_indices_as_integers() -> None:
    names = [f"l.{layer}.e.{expert}.w" for layer in (1, 0) for expert in sorted(range(11), key=str)]
    found = stack_groups("l.{i}.e.{e:int}.w", "l.{i}.w", names)
    assert [group.target_name for group in found] == ["l.0.w", "l.1.w"]
    assert found[1].members == tuple((expert, f"l.1.e.{expert}.w") for expert in range(11))


def test_stack_groups_take_an_anonymous_or_listed_index() -> None:
    assert stack_groups("e.*.w", "w", ["e.1.w", "e.0.w"])[0].members == ((0, "e.0.w"), (1, "e.1.w"))
    assert stack_groups("{q,k}", "w", ["k", "q"])[0].members == ((0, "q"), (1, "k"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["e.0", "e.1", "e.3"], "index 2 is missing"),
        (["e.1", "e.2"], "index 0 is missing"),
        (["e.0", "e.999999999999999999"], "index 1, 2, 3, 4, 5 is missing"),
        (["e.0", "e.x"], "'e.x' has the index 'x'"),
        (["e.0", "e.00"], "'e.00' has the index '00'"),
    ],
)
def test_stack_groups_refuse_indices_with_holes(names: list[str], hint: str) -> None:
    with pytest.raises(MigrationError, match=hint) as raised:
        stack_groups("e.{e}", "w", names)
    assert code_of(raised) == "CKM508"


def test_stack_groups_refuse_two_entries_with_one_index() -> None:
    with pytest.raises(MigrationError, match=r"'a_0.b' and 'a.0_b'|'a.0_b' and 'a_0.b'") as raised:
        stack_groups(re.compile(r"a.(?P<e>\d).b"), "w", ["a_0.b", "a.0_b"])
    assert code_of(raised) == "CKM508"


def test_stack_groups_need_exactly_one_index() -> None:
    for target in ("{a}.{b}", "w"):
        with pytest.raises(MigrationError) as raised:
            stack_groups("{a}.{b}", target, ["x.0"])
        assert code_of(raised) == "CKM504"
    with pytest.raises(MigrationError) as raised:
        stack_groups("e.{e}", "w", ["f.0"])
    assert code_of(raised) == "CKM505"
    assert stack_groups("e.{e}", "w", ["f.0"], optional=True) == ()
