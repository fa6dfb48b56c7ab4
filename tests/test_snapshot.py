from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import UsageError
from ckmigrate.snapshot import (
    Snapshot,
    fold_schema,
    order_of,
    parse_snapshot,
    parse_spec,
    read_snapshot,
    render_snapshot,
    spec_text,
    unfold_schema,
)
from ckmigrate.spec import DType, Schema, TensorSpec

SQUARE = TensorSpec(DType.F32, (64, 64))
ROW = TensorSpec(DType.BF16, (64,))

specs = st.builds(
    TensorSpec, st.sampled_from(DType), st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple)
)
segments = st.sampled_from(["a", "b", "0", "1", "2", "10", "01", "{", "é", '"', "a,b"])
names = st.one_of(st.lists(segments, min_size=1, max_size=3).map(".".join), st.text())


def blocks(count: int) -> Schema:
    return Schema({f"blocks.{i}.{p}.weight": SQUARE for i in range(count) for p in "qkv"})


def test_a_snapshot_reads_like_this() -> None:
    schema = Schema(
        {
            **blocks(12),
            "embed.weight": SQUARE,
            "head.weight": SQUARE,
            "n": TensorSpec(DType.I64, ()),
        }
    )
    text = render_snapshot(Snapshot(schema, (("embed.weight", "head.weight"),), "small"))
    assert text == (
        "{\n"
        '  "format": 1,\n'
        '  "model": "small",\n'
        '  "entries": {\n'
        '    "blocks.{0..11}.k.weight": "F32[64,64]",\n'
        '    "blocks.{0..11}.q.weight": "F32[64,64]",\n'
        '    "blocks.{0..11}.v.weight": "F32[64,64]",\n'
        '    "embed.weight": "F32[64,64]",\n'
        '    "head.weight": "F32[64,64]",\n'
        '    "n": "I64[]"\n'
        "  },\n"
        '  "tied": [\n'
        '    ["embed.weight", "head.weight"]\n'
        "  ]\n"
        "}\n"
    )


def test_lines_are_in_natural_order_whatever_the_order_of_the_model() -> None:
    schema = Schema({f"l.{i}.w": TensorSpec(DType.F32, (i,)) for i in (10, 9, 2, 1)})
    assert list(fold_schema(schema)) == ["l.1.w", "l.2.w", "l.9.w", "l.10.w"]
    backwards = Schema(reversed(list(schema.items())))
    assert fold_schema(backwards) == fold_schema(schema)


@given(st.dictionaries(names, specs, max_size=12))
def test_a_snapshot_loses_nothing(entries: dict[str, TensorSpec]) -> None:
    ties = (tuple(entries)[:2],) if len(entries) > 1 else ()
    snapshot = Snapshot(Schema(entries), ties, "m")
    text = render_snapshot(snapshot)
    assert parse_snapshot(text, "here") == snapshot
    assert render_snapshot(parse_snapshot(text, "here")) == text
    text.encode()


@given(specs)
def test_a_spec_survives_its_text(spec: TensorSpec) -> None:
    assert parse_spec(spec_text(spec)) == spec


NO_SPECS = "F32 F32[ F32[1,] F32[,1] F32[-1] f32[1] float32[1] F99[1] [1] F32[٣] F32[1]x F32[1"


@pytest.mark.parametrize(
    "text", [*NO_SPECS.split(), "", "F32[1] ", f"F32[{'9' * 19}]", f"F32[{'9' * 5000}]"]
)
def test_other_text_is_no_spec(text: str) -> None:
    with pytest.raises(ValueError, match=r"dtype and shape|beyond reason"):
        parse_spec(text)


def test_a_file_is_read_back(tmp_path: Path) -> None:
    snapshot = Snapshot(blocks(3), (), "größe")
    path = tmp_path / "m.json"
    path.write_text(render_snapshot(snapshot), encoding="utf-8")
    assert read_snapshot(path) == snapshot


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_file_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_snapshot(path)
    assert (caught.value.code, caught.value.where) == ("CKM220", str(path))


GOOD: dict[str, object] = {"format": 1, "model": "m", "entries": {"a": "F32[1]"}, "tied": []}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"format": 2}, "CKM222", "format '2'"),
        ({"format": True}, "CKM222", "format 'True'"),
        ({"more": 1}, "CKM223", "'more'"),
        ({"model": 1}, "CKM223", "'model'"),
        ({"entries": []}, "CKM223", "'entries'"),
        ({"entries": {"a": 1}}, "CKM223", "'a'"),
        ({"tied": {}}, "CKM223", "'tied'"),
        ({"tied": ["a"]}, "CKM223", "'tied'"),
        ({"entries": {"a": "F3[1]"}}, "CKM224", "'a'"),
        ({"entries": {"a.{0..": "F32[1]"}}, "CKM224", "'a.{0..'"),
        ({"entries": {"a.{0..1}": "F32[1]", "a.1": "F32[2]"}}, "CKM224", "repeats 'a.1'"),
        ({"entries": {"a.{0..9999999999}": "F32[1]"}}, "CKM224", "stands for"),
        ({"tied": [["a", "b"]]}, "CKM224", "'b'"),
        ({"tied": [["a", "a"]]}, "CKM224", "twice"),
        ({"tied": [[["a"]]]}, "CKM224", "no entry"),
    ],
)
def test_a_malformed_snapshot_is_a_usage_error(
    change: dict[str, object], code: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_snapshot(json.dumps({**GOOD, **change}), "m.json")
    assert caught.value.code == code
    assert says in str(caught.value)
    assert caught.value.where == "m.json"
    assert caught.value.fix


@pytest.mark.parametrize("key", list(GOOD))
def test_every_key_is_needed(key: str) -> None:
    with pytest.raises(UsageError):
        parse_snapshot(json.dumps({k: v for k, v in GOOD.items() if k != key}), "m.json")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1, "a": 2}', "[" * 100_000, "<<<<<<< HEAD"])
def test_what_is_no_json_object_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_snapshot(text, "m.json")
    assert caught.value.code == "CKM221"


def test_many_short_lines_cannot_fill_the_memory() -> None:
    lines = {f"a{i}.{{0..1500000}}": "F32[1]" for i in range(3)}
    with pytest.raises(ValueError, match="stands for"):
        unfold_schema(lines)


def test_the_order_of_the_model_is_kept(tmp_path: Path) -> None:
    schema = Schema((name, TensorSpec(DType.F32, (2,))) for name in ("b.w", "b.a", "a"))
    snapshot = Snapshot(schema, (("b.w", "a"),), "small", tuple(schema))
    text = render_snapshot(snapshot)
    assert '"order": {\n    ".": "b a",\n    "b": "w a"\n  }' in text
    assert parse_snapshot(text, "x").order == ("b.w", "b.a", "a")
    tied = Schema((name, schema[name]) for name in ("a", "b.a"))
    assert order_of(snapshot, tied) == ("a", "b.a")
    assert order_of(snapshot, schema) == tuple(schema)
    other = Schema((name, TensorSpec(DType.F32, (3,))) for name in schema)
    assert order_of(snapshot, other) is None
    assert order_of(Snapshot(schema, (), "small"), schema) is None


@pytest.mark.parametrize("order", ["[]", '{"a": 1}', '{"x": "y"}', '{".": "c"}', '{"{": ""}'])
def test_an_order_that_is_none_is_refused(order: str) -> None:
    schema = Schema([("b.w", TensorSpec(DType.F32, (2,)))])
    text = render_snapshot(Snapshot(schema, (), "small")).rstrip("}\n") + f',"order": {order}}}'
    with pytest.raises(UsageError) as caught:
        parse_snapshot(text, "x")
    assert caught.value.code in ("CKM223", "CKM224")
