"""Plans as text and counts, on traces of real scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ckmigrate.compile import start, trace
from ckmigrate.planning import Plan, make_plan
from ckmigrate.report.plan_counts import counts, dropped
from ckmigrate.report.plan_lines import Change, changes
from ckmigrate.report.plan_text import change_lines
from ckmigrate.revisions.script import read_script
from ckmigrate.spec import DType, Schema, TensorSpec

_HEAD = 'revision = "a1a1a1a1a1"\nrevises = None\napi = 1\nfrom ckmigrate import init\n'


def _changes(
    tmp_path: Path, body: str, schema: Mapping[str, tuple[int, ...]]
) -> tuple[Change, ...]:
    return changes(_plan(tmp_path, body, schema).trace.scripts[0], full=False)


def _plan(tmp_path: Path, body: str, schema: Mapping[str, tuple[int, ...]]) -> Plan:
    path = tmp_path / "0001_test.py"
    path.write_text(f"{_HEAD}\n\ndef upgrade(ck):\n    {body}\n")
    specs = Schema({name: TensorSpec(DType.F32, shape) for name, shape in schema.items()})
    done = trace([read_script(path)], start(specs), {})
    return make_plan(done, is_plain=lambda _: True, peak=lambda _: 0)


LAYERS = {f"h.{i}.qkv.weight": (12, 4) for i in range(12)}


def test_a_split_over_layers_is_one_line(tmp_path: Path) -> None:
    body = 'ck.split("h.{i}.qkv.weight", "h.{i}.{q,k,v}.weight", dim=0)'
    (change,) = _changes(tmp_path, body, LAYERS)
    assert change == Change(
        "split",
        "h.{0…11}.qkv.weight [12,4]",
        "h.{0…11}.{q,k,v}.weight [4,4]",
        "dim 0 into 3 × 4",
        12,
    )


def test_parts_of_different_sizes_are_told_apart(tmp_path: Path) -> None:
    body = 'ck.split("h.{i}.qkv.weight", "h.{i}.{q,k,v}.weight", dim=0, sizes=(8, 2, 2))'
    (change,) = _changes(tmp_path, body, LAYERS)
    assert change.after == "h.{0…11}.q.weight [8,4] + h.{0…11}.{k,v}.weight [2,4]"


def test_a_rename_shows_no_shapes_and_a_broad_one_its_pattern(tmp_path: Path) -> None:
    (change,) = _changes(tmp_path, 'ck.rename("a", "b")', {"a": (1,)})
    assert (change.before, change.after) == ("a", "b")
    many = {f"{letter}.w": (1,) for letter in "abcdef"}
    (change,) = _changes(tmp_path, 'ck.rename("**", "x.**")', many)
    assert (change.before, change.after, change.count) == ("**", "x.**", 6)


def test_thousands_of_entries_are_shown_as_the_call_is_written(tmp_path: Path) -> None:
    many: dict[str, tuple[int, ...]] = {f"h.{i}.w": (1,) for i in range(5001)}
    (change,) = _changes(tmp_path, 'ck.rename("h.**", "x.**")', many)
    assert (change.before, change.after, change.count) == ("h.**", "x.**", 5001)


def test_layers_of_other_sizes_stay_apart(tmp_path: Path) -> None:
    body = 'ck.split("{i}.w", "{i}.{a,b}", dim=0)'
    found = _changes(tmp_path, body, {"0.w": (4,), "1.w": (6,)})
    assert [change.before for change in found] == ["0.w [4]", "1.w [6]"]


def test_a_reshape_shows_the_new_shape_only(tmp_path: Path) -> None:
    (change,) = _changes(tmp_path, 'ck.reshape("a", (6,))', {"a": (2, 3)})
    assert (change.before, change.after) == ("a [2,3]", "[6]")


def test_a_cast_shows_dtypes(tmp_path: Path) -> None:
    (change,) = _changes(tmp_path, 'ck.cast("a", "float16")', {"a": (2,)})
    assert (change.before, change.after) == ("a [2] float32", "[2] float16")


def test_entries_are_counted_by_what_happens_to_them(tmp_path: Path) -> None:
    body = (
        'ck.rename("a", "b"); ck.drop("c", reason="r"); ck.init("n", shape=(2,)); '
        'ck.cast("d", "float16"); ck.transpose("m", 0, 1)'
    )
    shapes = {"a": (1,), "c": (1,), "keep": (1,), "d": (2,), "m": (2, 3)}
    plan = _plan(tmp_path, body, shapes)
    assert dropped(plan) == ("c",)
    found = counts(plan)
    assert found["unchanged"] == found["renamed"] == found["new"] == found["dropped"] == 1
    assert found["moved"] + found["computed"] == 2


def test_the_second_name_of_a_tied_tensor_is_not_renamed_by_that(tmp_path: Path) -> None:
    path = tmp_path / "0001_test.py"
    path.write_text(f"{_HEAD}\n\ndef upgrade(ck):\n    ck.rename('b', 'c')\n")
    specs = Schema({name: TensorSpec(DType.F32, (1,)) for name in ("a", "b", "z")})
    before = start(specs, ties=(("z", "a", "b"),))
    plans = [
        make_plan(trace(scripts, before, {}), is_plain=lambda _: True, peak=lambda _: 0)
        for scripts in ([], [read_script(path)])
    ]
    found = [counts(plan) for plan in plans]
    assert [(f["unchanged"], f["renamed"]) for f in found] == [(3, 0), (2, 1)]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_are_broken_between_parts_and_never_too_wide(width: int) -> None:
    names = [f"{'encoder.' * 9}part{i}.weight [64,64]" for i in range(3)]
    change = Change("concat", " + ".join(names), "encoder.fused [192,64]", "dim 0 from 3 × 64", 1)
    lines = list(change_lines(change, width, full=False))
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("    concat      ")
    assert all(line.startswith(" " * 16) for line in lines[1:])
    full = "\n".join(change_lines(change, width, full=True))
    assert all(name in full for name in names)


def test_a_name_of_a_stranger_is_escaped_in_a_plan() -> None:
    (line,) = change_lines(Change("rename", "a\x1b[2J", "b\nc", "", 1), 80, full=False)
    assert line == "    rename      a\\x1b[2J → b\\nc"
