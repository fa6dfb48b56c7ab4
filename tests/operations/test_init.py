"""init and drop: new entries, and entries that go."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Fill, Random
from ckmigrate.spec import DType, TensorSpec
from tests.scripted import refused, shapes, traced, undone


def test_a_new_entry_is_float32_zeros(tmp_path: Path) -> None:
    entry = traced(tmp_path, 'ck.init("b", shape=(3,))', {}).end.entries["b"]
    assert entry == Fill(b"\0\0\0\0", TensorSpec(DType.F32, (3,)))


def test_one_entry_per_match_of_like(tmp_path: Path) -> None:
    body = 'ck.init("h.{i}.gamma", like="h.{i}.norm", value=init.full(1e-5))'
    half = TensorSpec(DType.BF16, (4,))
    result = traced(tmp_path, body, {"h.0.norm": half, "h.1.norm": half})
    assert result.end.schema["h.1.gamma"] == half
    assert result.end.entries["h.0.gamma"] == Fill(b"\x28\x37", half)


def test_like_with_another_shape_and_dtype(tmp_path: Path) -> None:
    body = 'ck.init("{n}.s", like="{n}.w", shape=lambda t: t.shape[:1], dtype="int64")'
    result = traced(tmp_path, body, {"a.w": (4, 5)})
    assert result.end.schema["a.s"] == TensorSpec(DType.I64, (4,))


def test_random_values_depend_on_revision_and_name(tmp_path: Path) -> None:
    body = """
    ck.init("a", shape=(3, 2), value=init.normal())
    ck.init("b", shape=(3, 2), value=init.normal(seed=1))
    """
    entries = traced(tmp_path, body, {}).end.entries
    keys = [expr.key for expr in entries.values() if isinstance(expr, Random)]
    assert keys == ["0/7c1e9a04f2/a", "1/7c1e9a04f2/b"]


def test_if_missing_leaves_what_is_there(tmp_path: Path) -> None:
    body = """
    ck.init("a", shape=(3,), if_missing=True)
    ck.init("b", shape=(3,), if_missing=True)
    """
    assert shapes(traced(tmp_path, body, {"a": (7,)})) == {"a": (7,), "b": (3,)}


def test_an_init_is_undone_by_dropping(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.init("b", shape=(3,))', {"a": (1,)})
    assert shapes(undone(tmp_path, result)) == {"a": (1,)}


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ('ck.init("a", shape=(3,))', "CKM522", ["'a'"]),
        ('ck.init("b")', "CKM532", ["'b'", "shape="]),
        ('ck.init("b.{i}", shape=(3,))', "CKM532", ["'b.{i}'"]),
        ('ck.init("b", shape=(-1, 3))', "CKM524", ["'b'", "[-1,3]"]),
        ('ck.init("b", shape=(2.5,))', "CKM532", ["'b'", "2.5"]),
        ('ck.init("b", like="a", shape=(-1,))', "CKM524", ["'b'"]),
        ('ck.init("b", shape=(3,), value=0)', "CKM532", ["value=0", "initialiser"]),
        ('ck.init("b", shape=(3,), dtype="float33")', "CKM527", ["float33", "float32"]),
        ('ck.init("b", shape=(3,), dtype="int8", value=init.full(300))', "CKM527", ["300"]),
        ('ck.init("b", shape=(3,), dtype="int8", value=init.full(0.5))', "CKM527", ["0.5"]),
        ('ck.init("b", shape=(3,), dtype="int8", value=init.normal())', "CKM527", ["normal"]),
        ('ck.init("b", shape=(3,), value=init.orthogonal())', "CKM527", ["orthogonal", "2"]),
        ('ck.init("b", shape=(3,), value=init.eye())', "CKM527", ["eye", "two"]),
        ('ck.init("b", shape=(3,), value=init.kaiming_uniform())', "CKM527", ["kaiming"]),
        ('ck.init("b.{i}", like="x.{i}")', "CKM505", ["x.{i}"]),
    ],
)
def test_inits_that_cannot_be(tmp_path: Path, body: str, code: str, words: list[str]) -> None:
    refused(tmp_path, body, {"a": (2,)}, *words, code=code, operation="init")


def test_a_drop_is_irreversible_and_says_why(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.drop("aux.**", reason="no auxiliary loss")', {"aux.w": (2,)})
    assert shapes(result) == {}
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, result)
    assert "no auxiliary loss" in caught.value.details[0]


def test_a_drop_of_a_constant_is_checked_and_undone(tmp_path: Path) -> None:
    body = 'ck.drop("m", reason="always 1", expect=1)'
    result = traced(tmp_path, body, {"m": (2,), "a": (1,)})
    (check,) = result.checks
    one = Fill(b"\0\0\x80\x3f", TensorSpec(DType.F32, (2,)))
    assert check.right == one
    back = undone(tmp_path, result)
    assert back.end.entries["m"] == one


def test_a_drop_of_a_twin_is_checked_and_undone(tmp_path: Path) -> None:
    specs = {"head.w": (2, 2), "x": (1,), "embed.w": (2, 2)}
    body = 'ck.drop("head.w", reason="tied", expect="embed.w")'
    result = traced(tmp_path, body, specs)
    (check,) = result.checks
    assert {*map(repr, (check.left, check.right))} == {
        repr(result.start.entries[name]) for name in ("head.w", "embed.w")
    }
    assert list(result.end.entries) == ["x", "embed.w"]
    back = undone(tmp_path, result)
    assert back.end.entries["head.w"] == back.end.entries["embed.w"]
    assert shapes(back) == specs


def test_a_twin_that_is_tied_needs_no_check(tmp_path: Path) -> None:
    body = 'ck.drop("b", reason="tied", expect="a")'
    result = traced(tmp_path, body, {"a": (2,), "b": (2,)}, ties=(("a", "b"),))
    assert result.checks == ()
    assert result.end.ties == ()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ('ck.drop("x", reason="r")', "CKM505", ["'x'"]),
        ('ck.drop("a", reason=" ")', "CKM532", ["'a'", "reason"]),
        ('ck.drop("a", reason="r", expect="nope")', "CKM523", ["'a'", "'nope'"]),
        ('ck.drop("a", reason="r", expect="b")', "CKM523", ["[2]", "[3]"]),
        ('ck.drop("a", reason="r", expect="a")', "CKM523", ["'a'"]),
        ('ck.drop("a", reason="r", expect=1j)', "CKM527", ["'a'", "1j"]),
        ('ck.drop("a", reason="r", expect=[1])', "CKM527", ["'a'", "[1]"]),
    ],
)
def test_drops_that_cannot_be(tmp_path: Path, body: str, code: str, words: list[str]) -> None:
    refused(tmp_path, body, {"a": (2,), "b": (3,)}, *words, code=code, operation="drop")


def test_a_drop_may_find_nothing_where_optional(tmp_path: Path) -> None:
    body = 'ck.drop("x", reason="r", optional=True)'
    assert shapes(traced(tmp_path, body, {"a": (2,)})) == {"a": (2,)}
