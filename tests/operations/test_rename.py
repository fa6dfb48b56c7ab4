"""rename: one simultaneous bijection."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.checkpoint import Checkpoint
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Source
from ckmigrate.operations.rename import Renames, rename
from ckmigrate.spec import DType, TensorSpec
from tests.scripted import refused, shapes, traced, undone


def origins(result: object) -> dict[str, str]:
    found = {}
    for name, expr in result.end.entries.items():  # type: ignore[attr-defined]
        assert isinstance(expr, Source)
        found[name] = expr.name
    return found


def test_rename_of_a_subtree(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.rename("a.**", "b.**")', {"a.x": (1,), "a.y.z": (2,), "c": ()})
    assert origins(result) == {"b.x": "a.x", "b.y.z": "a.y.z", "c": "c"}
    assert list(result.end.entries) == ["b.x", "b.y.z", "c"]


def test_rename_swaps(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.rename("{a,b}.w", "{b,a}.w")', {"a.w": (1,), "b.w": (2,)})
    assert shapes(result) == {"a.w": (2,), "b.w": (1,)}


def test_rename_shifts(tmp_path: Path) -> None:
    specs = {f"layers.{i}.w": (i + 1,) for i in range(12)}
    result = traced(tmp_path, 'ck.rename("layers.{i}.w", "layers.{i+1}.w")', specs)
    assert shapes(result) == {f"layers.{i + 1}.w": (i + 1,) for i in range(12)}


def test_rename_is_undone(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.rename("l.{i}", "m.{i+1}")', {f"l.{i}": (i,) for i in range(3)})
    assert origins(undone(tmp_path, result)) == {f"l.{i}": f"m.{i + 1}" for i in range(3)}


def test_rename_moves_ties(tmp_path: Path) -> None:
    ties = (("a", "b"),)
    result = traced(tmp_path, 'ck.rename("a", "c")', {"a": (1,), "b": (1,)}, ties=ties)
    assert result.end.ties == (("c", "b"),)


def test_rename_of_nothing_names_what_is_near(tmp_path: Path) -> None:
    body = 'ck.rename("encoder.layer.0.w", "x")'
    specs = {"encoder.layers.0.w": (1,)}
    refused(tmp_path, body, specs, "encoder.layers.0.w", code="CKM505", operation="rename")


def test_rename_may_find_nothing_where_optional(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.rename("x", "y", optional=True)', {"a": (1,)})
    assert list(result.end.entries) == ["a"]


def test_rename_onto_an_existing_entry_names_both(tmp_path: Path) -> None:
    specs = {"a": (1,), "b": (2,)}
    refused(tmp_path, 'ck.rename("a", "b")', specs, "'a'", "'b'", code="CKM506", operation="rename")


def test_rename_of_two_into_one_names_both(tmp_path: Path) -> None:
    specs = {"a.0.w": (1,), "a.1.w": (2,)}
    refused(
        tmp_path,
        'ck.rename("a.{i}.w", "a.w")',
        specs,
        "a.0.w",
        "a.1.w",
        code="CKM506",
        operation="rename",
    )


def test_steps_of_a_rename_are_made_when_they_are_asked_for() -> None:
    specs = {name: TensorSpec(DType.F32, ()) for name in ("a.0", "a.1", "a.2", "kept")}
    steps = rename(specs, "a.{i}", "b.{i+1}", optional=False)
    names = [((f"a.{i}",), (f"b.{i + 1}",)) for i in range(3)]
    assert [(step.sources, step.targets) for step in steps] == names
    assert (len(steps), steps[-1]) == (3, list(steps)[-1])
    assert list(steps[1:]) == list(steps)[1:]


def test_inverse_of_all_renames_is_that_of_each() -> None:
    specs = {name: TensorSpec(DType.F32, ()) for name in ("a.w", "b.w")}
    steps = rename(specs, "{a,b}.w", "{b,a}.w", optional=False)
    assert list(steps.inverse()) == [step.inverse(()) for step in reversed(steps)]


def test_name_that_stays_is_no_step() -> None:
    specs = {name: TensorSpec(DType.F32, ()) for name in ("a.x", "b.0")}
    assert list(rename(specs, "**", "**", optional=False)) == []
    assert [step.targets for step in rename(specs, "{m}.0", "c.0", optional=False)] == [("c.0",)]


def test_renames_onto_an_entry_are_refused_when_they_are_applied() -> None:
    spec = TensorSpec(DType.F32, ())
    ck = Checkpoint({name: Source(name, spec) for name in ("a", "b")})
    for steps in (Renames(("a",), ("b",)), Renames(("a", "a"), ("x", "y"))):
        with pytest.raises(MigrationError, match="CKM522"):
            ck.recorder.apply(steps)
    assert list(ck.entries) == ["a", "b"]
