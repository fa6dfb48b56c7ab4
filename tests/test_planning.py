"""The plan: what is written, by which work, at which cost, and what stays tied."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.compile import Trace
from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import peak_cost
from ckmigrate.expr import Source
from ckmigrate.planning import Plan, Totals, make_plan
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check
from tests.scripted import traced


def planned(result: Trace, *extra: Check) -> Plan:
    return make_plan(
        result,
        is_plain=lambda name: True,
        peak=lambda entry: peak_cost(entry.expr),
        extra_checks=extra,
    )


def test_bytes_are_counted_by_their_work(tmp_path: Path) -> None:
    body = """
    ck.resize("a", (6, 2))
    ck.transpose("b", 0, 1)
    ck.cast("c", "float16")
    """
    plan = planned(traced(tmp_path, body, {"a": (4, 2), "b": (50, 50), "c": (8,)}))
    assert plan.totals == Totals(copied=32, filled=16, gathered=10_000, computed=16)
    assert plan.totals.written == plan.schema.nbytes
    assert plan.needs_torch
    assert plan.peak_memory == 20_000


def test_an_identity_is_known_as_one(tmp_path: Path) -> None:
    specs = {"a": (4, 2), "b": (1,)}
    there_and_back = 'ck.rename("a", "c")\nck.rename("c", "a")'
    assert planned(traced(tmp_path, there_and_back, specs)).is_identity
    assert not planned(traced(tmp_path, 'ck.rename("a", "c")', specs)).is_identity
    assert not planned(traced(tmp_path, 'ck.drop("a", reason="r")', specs)).is_identity
    assert not planned(traced(tmp_path, 'ck.copy("a", "c")', specs)).is_identity
    assert not planned(traced(tmp_path, 'ck.rename("{a,b}", "{b,a}")', specs)).is_identity


def test_random_values_need_no_torch(tmp_path: Path) -> None:
    body = 'ck.init("b", shape=(2,), value=init.normal())'
    assert not planned(traced(tmp_path, body, {})).needs_torch


def test_moves_tell_where_values_went(tmp_path: Path) -> None:
    body = """
    ck.split("a", ["x", "y"])
    ck.drop("b", reason="r")
    """
    plan = planned(traced(tmp_path, body, {"a": (2,), "b": (1,), "c": (1,)}))
    assert plan.moves == {"a": ["x", "y"], "b": [], "c": ["c"]}


def test_a_member_that_changed_alone_leaves_its_tie(tmp_path: Path) -> None:
    specs = dict.fromkeys("abcd", (2, 3))
    ties = (("a", "b", "c", "d"),)
    body = 'ck.transpose("a", 0, 1)'
    assert planned(traced(tmp_path, body, specs, ties=ties)).ties == (("b", "c", "d"),)
    body = 'ck.transpose("{a,c}", 0, 1)'
    assert planned(traced(tmp_path, body, specs, ties=ties)).ties == (("a", "c"), ("b", "d"))
    body = 'ck.transpose("{a,b,c}", 0, 1)\nck.drop("d", reason="r")'
    assert planned(traced(tmp_path, body, specs, ties=ties)).ties == (("a", "b", "c"),)


def test_claims_that_hold_by_themselves_are_left_out(tmp_path: Path) -> None:
    result = traced(tmp_path, "pass", {"a": (2,), "b": (2,)})
    a, b = (result.end.entries[name] for name in "ab")
    kept = Check(a, b, "they are equal")
    assert planned(result, Check(a, a, "itself"), kept).checks == (kept,)


def test_claims_about_narrow_elements_are_refused_while_planning(tmp_path: Path) -> None:
    spec = TensorSpec(DType.F4, (4, 4))
    result = traced(tmp_path, 'ck.transpose("a", 0, 1)', {"a": (2, 2)})
    narrow = Source("n", spec)
    from ckmigrate.expr import permute

    with pytest.raises(MigrationError) as caught:
        planned(result, Check(narrow, permute(narrow, (1, 0)), "claim"))
    assert caught.value.code == "CKM540"


def test_an_empty_checkpoint_has_a_plan(tmp_path: Path) -> None:
    plan = planned(traced(tmp_path, "pass", {}))
    assert plan.entries == ()
    assert plan.peak_memory == 0
    assert plan.is_identity
