"""compute: any torch function, planned on shapes and called once on values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Result
from ckmigrate.lower import Compute, lower
from ckmigrate.spec import DType, TensorSpec
from tests.scripted import refused, schema, shapes, traced, undone, values_of


def test_outputs_are_inferred_and_computed(tmp_path: Path) -> None:
    body = 'ck.compute(["{n}.orig", "{n}.mask"], "{n}.w", lambda w, m: w * m)'
    specs = {"a.orig": (2, 2), "a.mask": (2, 2), "b.orig": (3,), "b.mask": (3,)}
    result = traced(tmp_path, body, specs)
    assert shapes(result) == {"a.w": (2, 2), "b.w": (3,)}
    data = {"b.orig": np.array([1, 2, 3], "<f4"), "b.mask": np.array([1, 0, 1], "<f4")}
    stored = {name: value.tobytes() for name, value in data.items()}
    expected = np.array([1, 0, 3], "<f4").tobytes()
    assert values_of(result.end.entries["b.w"], stored) == expected
    assert lower(result.end.entries["b.w"], lambda name: True) == Compute(torch=True)


def test_two_outputs(tmp_path: Path) -> None:
    body = 'ck.compute("w", ["m", "s"], lambda w: (w.mean(), w.std(0).double()))'
    result = traced(tmp_path, body, {"w": (4, 3)})
    assert result.end.schema == schema({"m": (), "s": TensorSpec(DType.F64, (3,))})


def test_the_inverse_is_the_functions_inverse(tmp_path: Path) -> None:
    body = 'ck.compute("w", "v", lambda w: w * 2, inverse=lambda v: v / 2)'
    result = traced(tmp_path, body, {"w": (2,)})
    back = undone(tmp_path, result)
    data = {"v": np.array([2, 4], "<f4").tobytes()}
    assert values_of(back.end.entries["w"], data) == np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize(("given", "back"), [("'same'", "same"), ("print", None)])
def test_what_becomes_of_moments_is_kept(tmp_path: Path, given: str, back: str | None) -> None:
    body = f'ck.compute("w", "v", lambda w: w * 2, inverse=lambda v: v / 2, moments={given})'
    result = traced(tmp_path, body, {"w": (2,)})
    (record,) = result.scripts[0].records
    assert f"moments={given}" in record.arguments
    up, down = result.end.entries["v"], undone(tmp_path, result).end.entries["w"]
    assert isinstance(up, Result)
    assert isinstance(down, Result)
    assert up.call.moments == ("same" if back else print)
    assert down.call.moments == back


def test_without_an_inverse_there_is_no_way_back(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.compute("w", "v", lambda w: w * 2)', {"w": (2,)})
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, result)
    assert "inverse=" in caught.value.details[0]


def test_declared_specs_stand_for_what_shapes_cannot_tell(tmp_path: Path) -> None:
    body = 'ck.compute("w", "v", lambda w: w[w > 0], specs=[("float32", (2,))])'
    result = traced(tmp_path, body, {"w": (4,)})
    data = {"w": np.array([1, -1, 2, -2], "<f4").tobytes()}
    expected = np.array([1, 2], "<f4").tobytes()
    assert values_of(result.end.entries["v"], data) == expected
    with pytest.raises(MigrationError) as caught:
        values_of(result.end.entries["v"], {"w": np.ones(4, "<f4").tobytes()})
    assert caught.value.code == "CKM542"
    assert "float32 [4]" in caught.value.what
    assert "float32 [2]" in caught.value.what


@pytest.mark.parametrize(
    "made", ["w.to_sparse()", "None", "(w, w)", "w.tolist()", "[w, 1][1:]", "w.half()"]
)
def test_a_function_that_breaks_its_word_is_named(tmp_path: Path, made: str) -> None:
    body = f'ck.compute("w", "v", lambda w: {made}, specs=[("float32", (2,))])'
    result = traced(tmp_path, body, {"w": (2,)})
    with pytest.raises(MigrationError) as caught:
        values_of(result.end.entries["v"], {"w": bytes(8)})
    assert caught.value.code == "CKM542"
    assert caught.value.fix


def test_a_function_that_raises_at_execution_is_named(tmp_path: Path) -> None:
    body = 'ck.compute("w", "v", lambda w: 1 / 0, specs=[("float32", (2,))])'
    result = traced(tmp_path, body, {"w": (2,)})
    with pytest.raises(MigrationError) as caught:
        values_of(result.end.entries["v"], {"w": bytes(8)})
    assert caught.value.code == "CKM541"
    assert "ZeroDivisionError" in caught.value.what


def test_a_function_may_work_in_place_without_harm(tmp_path: Path) -> None:
    body = """
    ck.copy("w", "kept")
    ck.compute("w", ["a", "b"], lambda w: (w, w.mul_(2)))
    """
    entries = traced(tmp_path, body, {"w": (2,)}).end.entries
    data = {"w": np.array([1, 2], "<f4").tobytes()}
    assert values_of(entries["kept"], data) == data["w"]
    assert values_of(entries["b"], data) == np.array([2, 4], "<f4").tobytes()


def test_narrow_elements_are_refused_while_planning(tmp_path: Path) -> None:
    specs = {"w": TensorSpec(DType.F4, (4,))}
    body = 'ck.compute("w", "v", lambda w: w + 1)'
    refused(tmp_path, body, specs, "float4", code="CKM543", operation="compute")
    declared = 'ck.compute("w", "v", lambda w: w, specs=[("float32", (4,))])'
    expr = traced(tmp_path, declared, specs).end.entries["v"]
    with pytest.raises(MigrationError) as caught:
        lower(expr, lambda name: True)
    assert caught.value.code == "CKM540"


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ('"w", ["a", "b"], lambda w: w', "CKM526", ["1 tensors for 2 outputs", "a, b"]),
        ('"w", "v", lambda w: w @ w', "CKM526", ["'w'", "[2,3]", "RuntimeError"]),
        ('"w", "v", lambda w: float(w.sum())', "CKM526", ["'w'", "specs="]),
        ('"w", "v", lambda: 1', "CKM526", ["TypeError"]),
        ('"w", "v", abs, specs=[1]', "CKM532", ["specs="]),
        ('"w", "v", abs, specs=[("float33", (1,))]', "CKM527", ["float33"]),
        ('"x", "v", abs', "CKM505", ["x"]),
        ('"w", "v", abs, moments="keep"', "CKM532", ["moments='keep'", "reset"]),
    ],
)
def test_computations_that_cannot_be(
    tmp_path: Path, call: str, code: str, words: list[str]
) -> None:
    body = f"ck.compute({call})"
    refused(tmp_path, body, {"w": (2, 3)}, *words, code=code, operation="compute")
