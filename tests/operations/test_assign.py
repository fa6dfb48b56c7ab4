"""ck[name] = expression, and take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckmigrate.errors import MigrationError
from tests.scripted import refused, shapes, traced, undone, values_of

DATA = {
    "a": np.arange(6, dtype="<f4").tobytes(),
    "b": (np.arange(6, dtype="<f4") + 10).tobytes(),
}
SPECS = {"a": (3, 2), "b": (3, 2)}


def test_an_expression_over_taken_entries(tmp_path: Path) -> None:
    body = """
    a, b = ck.take("a"), ck.take("b")
    ck["c"] = concat([b[1:], a.transpose(0, 1).reshape(3, 2)])
    """
    result = traced(tmp_path, body, SPECS)
    assert shapes(result) == {"c": (5, 2)}
    a = np.arange(6).reshape(3, 2)
    expected = np.concatenate([(a + 10)[1:], a.T.reshape(3, 2)]).astype("<f4")
    assert values_of(result.end.entries["c"], DATA) == expected.tobytes()


def test_stack_of_entries(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck["c"] = stack([ck["a"], ck["b"]], dim=-1)', SPECS)
    a = np.arange(6).reshape(3, 2)
    expected = np.stack([a, a + 10], -1).astype("<f4")
    assert values_of(result.end.entries["c"], DATA) == expected.tobytes()
    assert shapes(result) == {**SPECS, "c": (3, 2, 2)}


def test_an_entry_may_be_replaced_in_place(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck["a"] = ck["a"][0]', SPECS)
    assert list(shapes(result).items()) == [("a", (2,)), ("b", (3, 2))]


def test_an_assignment_has_no_derived_inverse(tmp_path: Path) -> None:
    body = """
    t = ck.take("a")
    ck["c"] = t
    """
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, traced(tmp_path, body, SPECS))
    assert caught.value.code == "CKM550"
    assert any("line 9, take" in line for line in caught.value.details)
    assert any("line 10, assign" in line for line in caught.value.details)


def test_what_is_taken_must_be_used(tmp_path: Path) -> None:
    refused(tmp_path, 'ck.take("a")', SPECS, "'a'", code="CKM529", operation="take")


def test_what_is_taken_twice_must_be_used_twice(tmp_path: Path) -> None:
    body = """
    ck.take("a")
    ck["a"] = ck["b"]
    ck["c"] = ck.take("a")
    """
    refused(tmp_path, body, SPECS, "'a'", code="CKM529", operation="take")


def test_a_take_is_not_excused_by_another_use_of_its_source(tmp_path: Path) -> None:
    body = """
    ck.copy("a", "d")
    ck.take("a")
    """
    refused(tmp_path, body, SPECS, "'a'", code="CKM529", operation="take", line=10)


def test_what_is_missing_cannot_be_taken_or_read(tmp_path: Path) -> None:
    body = 'ck["c"] = ck["aa"]'
    refused(tmp_path, body, SPECS, "'aa'", code="CKM531", operation="ck[…]")
    refused(tmp_path, 'ck.take("aa")', SPECS, "'aa'", code="CKM531", operation="take")


@pytest.mark.parametrize("value", ["3", "None", "torch.zeros(2)", "init.zeros()"])
def test_only_expressions_can_be_assigned(tmp_path: Path, value: str) -> None:
    body = f'ck["c"] = {value}'
    refused(tmp_path, body, SPECS, "'c'", code="CKM532", operation="assign")
