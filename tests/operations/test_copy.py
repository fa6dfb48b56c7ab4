"""copy, tie, untie, merge_equal: a second name for the same values, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Source
from tests.scripted import refused, shapes, traced, undone

PAIR = {"embed.w": (4, 2), "x": (1,), "head.w": (4, 2)}


def test_a_copy_is_independent_and_stands_beside_its_source(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.copy("a", "b")', {"a": (2,), "c": (1,)})
    assert list(result.end.entries) == ["a", "b", "c"]
    assert result.end.entries["a"] == result.end.entries["b"]
    assert result.end.ties == ()
    assert shapes(undone(tmp_path, result)) == {"a": (2,), "c": (1,)}


def test_undoing_a_copy_checks_that_both_are_still_equal(tmp_path: Path) -> None:
    back = undone(tmp_path, traced(tmp_path, 'ck.copy("a", "b")', {"a": (2,)}))
    (check,) = back.checks
    assert (check.left, check.right) == (
        back.start.entries["a"],
        back.start.entries["b"],
    )


def test_a_tie_joins_the_group_of_its_source(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.tie("b", "c")', {"a": (2,), "b": (2,)}, ties=(("a", "b"),))
    assert result.end.ties == (("a", "b", "c"),)
    assert {expr.name for expr in result.end.entries.values() if isinstance(expr, Source)} == {"a"}


def test_tying_existing_entries_checks_them_and_leaves_their_order(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.tie("embed.w", "head.w")', PAIR)
    assert list(result.end.entries) == list(PAIR)
    assert result.end.ties == (("embed.w", "head.w"),)
    (check,) = result.checks
    assert check.left == result.start.entries["embed.w"]
    assert check.right == result.start.entries["head.w"]
    assert result.end.entries["head.w"] == check.left


def test_an_untied_group_is_tied_again_on_the_way_back(tmp_path: Path) -> None:
    ties = (("embed.w", "head.w"),)
    result = traced(tmp_path, 'ck.untie("head.w")', PAIR, ties=ties)
    assert result.end.ties == ()
    back = undone(tmp_path, result)
    assert back.end.ties == ties
    assert len(back.checks) == 1


def test_changing_both_members_alike_keeps_the_tie(tmp_path: Path) -> None:
    body = 'ck.transpose("{n}.w", 0, 1)'
    result = traced(tmp_path, body, PAIR, ties=(("embed.w", "head.w"),))
    assert result.end.ties == (("embed.w", "head.w"),)
    assert result.end.entries["embed.w"] == result.end.entries["head.w"]


def test_merge_equal_checks_every_other(tmp_path: Path) -> None:
    specs = {f"h.{i}.{p}": (2,) for i in range(2) for p in "abc"}
    result = traced(tmp_path, 'ck.merge_equal("h.{i}.{a,b,c}", "h.{i}.w")', specs)
    assert shapes(result) == {"h.0.w": (2,), "h.1.w": (2,)}
    assert len(result.checks) == 4
    assert shapes(undone(tmp_path, result)) == specs


def test_merging_what_is_tied_needs_no_check(tmp_path: Path) -> None:
    body = 'ck.merge_equal(["embed.w", "head.w"], "w")'
    assert traced(tmp_path, body, PAIR, ties=(("embed.w", "head.w"),)).checks == ()


@pytest.mark.parametrize(
    ("body", "code", "operation", "words"),
    [
        ('ck.copy("x", "head.w")', "CKM522", "copy", ["'head.w'", "'x'"]),
        ('ck.copy("x", "x")', "CKM532", "copy", ["'x'"]),
        ('ck.copy("y", "z")', "CKM505", "copy", ["'y'"]),
        ('ck.tie("x", "head.w")', "CKM523", "tie", ["'x'", "'head.w'", "[1]", "[4,2]"]),
        ('ck.untie("x")', "CKM532", "untie", ["'x'"]),
        ('ck.merge_equal(["x", "head.w"], "m")', "CKM523", "merge_equal", ["'x'", "'head.w'"]),
        ('ck.merge_equal(["x", "y"], "m")', "CKM507", "merge_equal", ["y"]),
        ('ck.merge_equal(["x"], "m")', "CKM532", "merge_equal", []),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, body: str, code: str, operation: str, words: list[str]
) -> None:
    refused(tmp_path, body, PAIR, *words, code=code, operation=operation)


def test_each_may_find_nothing_where_optional(tmp_path: Path) -> None:
    body = """
    ck.copy("y", "z", optional=True)
    ck.tie("y", "z", optional=True)
    ck.untie("x", optional=True)
    ck.merge_equal("q.{a,b}", "m", optional=True)
    """
    assert shapes(traced(tmp_path, body, PAIR)) == PAIR


def test_one_target_of_two_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError) as caught:
        traced(tmp_path, 'ck.copy("{n}.w", "w")', PAIR)
    assert caught.value.code in ("CKM504", "CKM522")


def test_untie_leaves_a_member_that_was_changed_before(tmp_path: Path) -> None:
    ties = (("a", "b", "c"),)
    body = 'ck.unsqueeze("a", 0)\nck.untie("b")'
    result = traced(tmp_path, body, {"a": (2,), "b": (2,), "c": (2,)}, ties=ties)
    assert result.end.ties == ()
    back = undone(tmp_path, result)
    assert shapes(back) == {"a": (2,), "b": (2,), "c": (2,)}
    assert back.end.ties == (("b", "c"),)
    alone = 'ck.unsqueeze("a", 0)\nck.untie("a")'
    with pytest.raises(MigrationError) as caught:
        traced(tmp_path, alone, {"a": (2,), "b": (2,)}, ties=(("a", "b"),))
    assert caught.value.code == "CKM532"
