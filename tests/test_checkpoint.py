"""The symbolic checkpoint: order, ties, records, parameters, and its speed on many entries."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckmigrate.checkpoint import Checkpoint
from ckmigrate.compile import inverse_steps, start
from ckmigrate.errors import MigrationError
from ckmigrate.spec import DType, Schema, TensorSpec
from tests.scripted import refused, schema, shapes, traced


def checkpoint(**specs: tuple[int, ...]) -> Checkpoint:
    return Checkpoint(start(schema(specs)).entries)


def test_it_is_a_collection_of_names() -> None:
    ck = checkpoint(a=(1,), b=(2, 3))
    assert "a" in ck
    assert "c" not in ck
    assert len(ck) == 2
    assert list(ck) == ["a", "b"]
    assert list(ck.names) == ["a", "b"]
    assert ck["b"].shape == (2, 3)


def test_match_gives_captures_and_may_be_empty() -> None:
    ck = Checkpoint(start(schema({"l.10.w": (), "l.9.w": ()})).entries)
    assert [(m.name, dict(m.captures)) for m in ck.match("l.{i}.w")] == [
        ("l.9.w", {"i": "9"}),
        ("l.10.w", {"i": "10"}),
    ]
    assert ck.match("nothing") == ()


def test_new_entries_stand_where_their_sources_stood() -> None:
    ck = checkpoint(a=(2,), b=(2,), c=(4,), d=(1,))
    ck.split("c", ["c1", "c2"])
    assert list(ck.names) == ["a", "b", "c1", "c2", "d"]
    ck.concat(["a", "c2"], "e")
    assert list(ck.names) == ["e", "b", "c1", "d"]
    ck.init("new", shape=())
    assert list(ck.names) == ["e", "b", "c1", "d", "new"]
    ck.drop("c1", reason="r", expect="b")
    assert list(ck.names) == ["e", "b", "d", "new"]


def test_a_refused_operation_changes_nothing() -> None:
    ck = checkpoint(a=(2,), b=(2,), c=(3,))
    before = dict(ck.entries)
    calls: list[Callable[[], None]] = [
        lambda: ck.rename("a", "b"),
        lambda: ck.concat(["a", "b"], "c"),
        lambda: ck.split("a", ["x", "c"]),
        lambda: ck.copy("a", "c"),
        lambda: ck.gather("a", [5]),
    ]
    for call in calls:
        with pytest.raises(MigrationError):
            call()
        assert dict(ck.entries) == before
    assert ck.recorder.records == []


def test_records_say_what_was_done_and_where(tmp_path: Path) -> None:
    body = """
    ck.rename("a", "b")
    ck.split("b", ["x", "y"], sizes=(1, 2))
    """
    (script,) = traced(tmp_path, body, {"a": (3,)}).scripts
    assert [(r.operation, r.arguments, r.line) for r in script.records] == [
        ("rename", "'a', 'b'", 9),
        ("split", "'b', ['x', 'y'], dim=0, sizes=(1, 2)", 10),
    ]
    assert script.records[1].before["b"] == TensorSpec(DType.F32, (3,))
    assert script.records[1].after["y"] == TensorSpec(DType.F32, (2,))


def test_steps_of_one_record_are_undone_together() -> None:
    ck = checkpoint(a=(1,), b=(2,))
    ck.rename("{a,b}", "{b,a}")
    (record,) = ck.recorder.records
    ck.recorder.undo(record, inverse_steps(record))
    assert {name: expr.spec.shape for name, expr in ck.entries.items()} == {"a": (1,), "b": (2,)}


def test_ties_of_three_lose_one_member_at_a_time() -> None:
    state = start(schema(dict.fromkeys("abc", (4,))), ties=(("a", "b", "c"),))
    ck = Checkpoint(state.entries, ties=state.ties)
    ck.split("b", ["b1", "b2"])
    assert list(ck.ties) == [("a", "c")]
    ck.drop("c", reason="r")
    assert list(ck.ties) == []


def test_two_tied_groups_may_join() -> None:
    state = start(schema(dict.fromkeys("abcd", (4,))), ties=(("a", "b"), ("c", "d")))
    ck = Checkpoint(state.entries, ties=state.ties)
    ck.tie("a", "c")
    assert list(ck.ties) == [("a", "b", "c", "d")]
    assert len(ck.recorder.checks) == 2


def test_parameters(tmp_path: Path) -> None:
    body = """
    assert "heads" in ck.params and "depth" not in ck.params
    assert ck.params.get("depth", 7) == 7 and ck.params.get("heads") == 3
    ck.reshape("w", (ck.params["heads"], -1))
    """
    result = traced(tmp_path, body, {"w": (12,)}, params={"heads": 3})
    assert shapes(result) == {"w": (3, 4)}


def test_a_missing_parameter_says_how_to_give_it(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        'ck.params["depth"]',
        {},
        "'depth'",
        "heads",
        "--param depth=VALUE",
        code="CKM534",
        operation="",
        params={"heads": 3},
    )
    assert "[tool.ckmigrate.params]" in str(error.fix)


def test_a_todo_refuses_to_run(tmp_path: Path) -> None:
    body = 'ck.todo("which head is it?")'
    refused(tmp_path, body, {}, "which head is it?", code="CKM528", operation="todo")


def test_branching_on_values_is_refused_with_its_line(tmp_path: Path) -> None:
    body = """
    if ck["a"] == 0:
        ck.drop("a", reason="r")
    """
    refused(tmp_path, body, {"a": (1,)}, "'a'", code="CKM533", operation="")


def test_branching_on_names_and_shapes_is_fine(tmp_path: Path) -> None:
    body = """
    if "a" in ck and ck["a"].shape[0] == 2:
        ck.rename("a", "b")
    """
    assert shapes(traced(tmp_path, body, {"a": (2,)})) == {"b": (2,)}
    assert shapes(traced(tmp_path, body, {"a": (3,)})) == {"a": (3,)}


def test_an_entry_used_by_two_groups_is_named(tmp_path: Path) -> None:
    specs = {"a": (2,), "b": (2,), "c": (2,)}
    body = 'ck.drop("{a,b}", reason="r", expect="c")'
    refused(tmp_path, body, specs, "'c'", code="CKM522", operation="drop")


def many(count: int) -> Checkpoint:
    specs = {
        f"model.blocks.{i}.attn.qkv.{p}": TensorSpec(DType.BF16, (48, 16))
        for i in range(count // 4)
        for p in ("w", "b", "s", "z")
    }
    return Checkpoint(start(Schema(specs)).entries)


@pytest.mark.parametrize(
    "act",
    [
        lambda ck: ck.rename("model.**", "encoder.**"),
        lambda ck: ck.rename("model.blocks.{i}.**", "model.blocks.{i+1}.**"),
        lambda ck: ck.split("model.blocks.{i}.attn.qkv.{p}", "m.{i}.{q,k,v}.{p}"),
        lambda ck: ck.concat("model.blocks.{i}.attn.qkv.{w,b,s,z}", "m.{i}"),
        lambda ck: ck.stack("model.blocks.{i:int}.attn.qkv.{p}", "m.{p}"),
        lambda ck: ck.transpose("model.**", 0, 1),
        lambda ck: ck.init("m.{i}.gamma", like="model.blocks.{i}.attn.qkv.w"),
        lambda ck: ck.copy("model.**", "ema.**"),
        lambda ck: ck.drop("model.**", reason="r"),
    ],
    ids=["rename", "shift", "split", "concat", "stack", "transpose", "init", "copy", "drop"],
)
def test_twenty_thousand_entries_take_about_a_second(act: Callable[[Checkpoint], None]) -> None:
    ck = many(20_000)
    began = time.process_time()
    try:
        act(ck)
    except MigrationError as error:
        pytest.fail(str(error))
    assert time.process_time() - began < 3


def test_a_long_history_of_small_renames_does_not_grow_quadratically() -> None:
    ck = many(2000)
    began = time.process_time()
    for number in range(100):
        ck.rename(f"model.blocks.{number}.attn.qkv.w", f"model.blocks.{number}.x")
    ck.recorder.finish()
    assert time.process_time() - began < 3
