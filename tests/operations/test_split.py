"""split and concat: one tensor ↔ many along a dimension, sizes recorded."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.scripted import refused, shapes, traced, undone, values_of


def test_split_into_equal_parts(tmp_path: Path) -> None:
    body = 'ck.split("h.{i}.qkv.{p}", "h.{i}.{q,k,v}.{p}", dim=0)'
    specs = {"h.0.qkv.weight": (6, 4), "h.0.qkv.bias": (6,)}
    assert shapes(traced(tmp_path, body, specs)) == {
        "h.0.q.weight": (2, 4),
        "h.0.k.weight": (2, 4),
        "h.0.v.weight": (2, 4),
        "h.0.q.bias": (2,),
        "h.0.k.bias": (2,),
        "h.0.v.bias": (2,),
    }


def test_split_with_sizes_and_its_inverse_keep_the_rows(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.split("w", ["q", "k", "v"], sizes=(8, 2, 2))', {"w": (12, 3)})
    data = np.arange(36, dtype="<f4").reshape(12, 3)
    entries = result.end.entries
    for name, rows in (("q", slice(0, 8)), ("k", slice(8, 10)), ("v", slice(10, 12))):
        assert values_of(entries[name], {"w": data.tobytes()}) == data[rows].tobytes()
    back = undone(tmp_path, result)
    parts = {"q": data[:8], "k": data[8:10], "v": data[10:]}
    stored = {name: part.tobytes() for name, part in parts.items()}
    assert values_of(back.end.entries["w"], stored) == data.tobytes()


def test_split_along_another_dim(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.split("w", ["a", "b"], dim=-1)', {"w": (2, 6)})
    data = np.arange(12, dtype="<f4").reshape(2, 6)
    assert values_of(result.end.entries["b"], {"w": data.tobytes()}) == data[:, 3:].tobytes()


def test_split_refuses_a_size_that_is_no_multiple(tmp_path: Path) -> None:
    refused(
        tmp_path,
        'ck.split("a.c_attn.weight", "a.{q,k,v}.weight")',
        {"a.c_attn.weight": (2300, 4)},
        "'a.c_attn.weight'",
        "3 equal parts",
        "2300",
        "sizes=",
        code="CKM521",
        operation="split",
    )


@pytest.mark.parametrize("sizes", ["(8, 2, 1)", "(8, 4)", "(8, 5, -1)", "(8, 2.0, 2)", "()"])
def test_split_refuses_sizes_that_do_not_add_up(tmp_path: Path, sizes: str) -> None:
    body = f'ck.split("w", ["q", "k", "v"], sizes={sizes})'
    refused(tmp_path, body, {"w": (12,)}, "'w'", "12", "3", code="CKM521", operation="split")


def test_split_refuses_a_dim_that_is_not_there(tmp_path: Path) -> None:
    body = 'ck.split("w", ["q", "k"], dim=2)'
    refused(tmp_path, body, {"w": (4, 4)}, "'w'", "-2 to 1", code="CKM520", operation="split")


def test_split_of_a_scalar_is_refused(tmp_path: Path) -> None:
    body = 'ck.split("w", ["q", "k"])'
    refused(tmp_path, body, {"w": ()}, "scalar", code="CKM520", operation="split")


def test_split_into_one_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, 'ck.split("w", "q")', {"w": (4,)}, code="CKM532", operation="split")


def test_split_onto_an_existing_name_is_refused(tmp_path: Path) -> None:
    body = 'ck.split("w", ["q", "k"])'
    specs = {"w": (4,), "k": (1,)}
    refused(tmp_path, body, specs, "'k'", "'w'", code="CKM522", operation="split")


def test_split_into_twice_one_name_is_refused(tmp_path: Path) -> None:
    body = 'ck.split("w", ["q", "q"])'
    refused(tmp_path, body, {"w": (4,)}, "'q'", code="CKM522", operation="split")


def test_split_ends_a_tie_even_where_a_part_keeps_the_name(tmp_path: Path) -> None:
    body = 'ck.split("a", ["a", "c"])'
    result = traced(tmp_path, body, {"a": (4,), "b": (4,)}, ties=(("a", "b"),))
    assert result.end.ties == ()


def test_concat_is_in_the_order_of_the_alternatives(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.concat("{v,q}.w", "w")', {"q.w": (1, 2), "v.w": (3, 2)})
    stored = {"q.w": np.full(2, 1, "<f4").tobytes(), "v.w": np.full(6, 2, "<f4").tobytes()}
    assert values_of(result.end.entries["w"], stored) == stored["v.w"] + stored["q.w"]


def test_concat_is_undone_with_the_old_sizes(tmp_path: Path) -> None:
    specs = {"q": (8, 2), "k": (2, 2), "v": (2, 2)}
    result = traced(tmp_path, 'ck.concat("{q,k,v}", "w")', specs)
    assert shapes(undone(tmp_path, result)) == specs


def test_concat_refuses_an_incomplete_group(tmp_path: Path) -> None:
    specs = {f"h.{i}.{p}.w": (2,) for i, p in itertools.product((0, 1), "qkv")}
    del specs["h.1.k.w"]
    error = refused(
        tmp_path,
        'ck.concat("h.{i}.{q,k,v}.w", "h.{i}.qkv.w")',
        specs,
        "h.1.k.w",
        code="CKM507",
        operation="concat",
    )
    assert "h.0.k.w" not in str(error)


def test_concat_refuses_other_shapes_and_dtypes(tmp_path: Path) -> None:
    body = 'ck.concat(["a", "b"], "w")'
    refused(
        tmp_path,
        body,
        {"a": (2, 3), "b": (2, 4)},
        "'a'",
        "'b'",
        "[2,3]",
        "[2,4]",
        code="CKM523",
        operation="concat",
    )
    refused(tmp_path, body, {"a": (2, 3), "b": (2,)}, code="CKM523", operation="concat")


def test_concat_of_an_entry_with_itself_is_refused(tmp_path: Path) -> None:
    body = 'ck.concat(["a", "a"], "w")'
    with_code = {"code": "CKM522", "operation": "concat"}
    refused(tmp_path, body, {"a": (2, 3)}, "'a'", **with_code)  # type: ignore[arg-type]


def test_concat_may_find_nothing_where_optional(tmp_path: Path) -> None:
    body = 'ck.concat("{q,k}.w", "w", optional=True)'
    assert shapes(traced(tmp_path, body, {"a": (1,)})) == {"a": (1,)}
