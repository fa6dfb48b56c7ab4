from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import IdentifyError
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.tagging import MAX_BYTES, Applied, Tag, parse_tag

TAG = Tag(
    project="digits",
    revision="7c1e9a04f2",
    name="split_qkv",
    release="1.2",
    writer="ckmigrate 0.1.0",
    history=(
        Applied("d1339abdd1", "first", "1:ab"),
        Applied("7c1e9a04f2", "split_qkv", "1:cd", (("config.n", "3"), ("config.new", None))),
    ),
    origin={"blocks.{0..3}.w": "F32[64,64]"},
    origin_revision=None,
)

texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
revisions = st.text("0123456789abcdef", min_size=10, max_size=10)


def test_a_tag_reads_like_this() -> None:
    assert Tag("digits", None, writer="ckmigrate 0.1.0").to_json() == (
        '{"format":1,"history":[],"name":"","origin":{},"origin_revision":null,'
        '"project":"digits","release":null,"revision":null,"writer":"ckmigrate 0.1.0"}'
    )


@given(
    st.builds(
        Tag,
        project=texts,
        revision=st.none() | revisions,
        name=texts,
        release=st.none() | texts,
        writer=texts,
        history=st.lists(st.builds(Applied, revisions, texts, texts), max_size=3).map(tuple),
        origin=st.dictionaries(st.text(), st.text(), max_size=3),
        origin_revision=st.none() | revisions,
    )
)
def test_a_tag_survives_its_text(tag: Tag) -> None:
    text = tag.to_json()
    assert parse_tag(text) == tag
    assert parse_tag(text).to_json() == text
    assert text.isascii()


def test_the_text_does_not_depend_on_the_order_of_the_origin() -> None:
    one = Tag("p", None, origin={"a": "F32[]", "b": "F32[1]"})
    other = Tag("p", None, origin={"b": "F32[1]", "a": "F32[]"})
    assert one.to_json() == other.to_json()


def test_the_origin_is_kept_folded_and_comes_back() -> None:
    schema = Schema({f"blocks.{i}.w": TensorSpec(DType.F32, (64, 64)) for i in range(32)})
    tag = TAG.with_origin(schema, "d1339abdd1")
    assert tag.origin == {"blocks.{0..31}.w": "F32[64,64]"}
    assert parse_tag(tag.to_json()).origin_schema() == schema
    assert tag.origin_revision == "d1339abdd1"
    assert Tag("p", None).origin_schema() is None


def test_an_origin_that_does_not_fit_is_left_out() -> None:
    tag = Tag("p", "7c1e9a04f2", origin={f"{'x' * 100}{i}": "F32[1]" for i in range(10_000)})
    assert parse_tag(tag.to_json()) == Tag("p", "7c1e9a04f2")


@pytest.mark.parametrize("origin", [{"a": "nonsense"}, {"a.{0..": "F32[]"}, {"a.{0..9}": "F32[x]"}])
def test_an_origin_that_makes_no_sense_is_refused_when_asked_for(origin: dict[str, str]) -> None:
    with pytest.raises(IdentifyError) as caught:
        Tag("p", None, origin=origin).origin_schema()
    assert caught.value.code == "CKM406"


def changed(**change: Any) -> str:
    return json.dumps({**json.loads(TAG.to_json()), **change})


@pytest.mark.parametrize("number", [2, 99, 10**50])
def test_a_newer_format_names_its_writer(number: int) -> None:
    text = json.dumps({"format": number, "writer": "ckmigrate 7.0", "surprise": [1]})
    with pytest.raises(IdentifyError, match=r"newer ckmigrate: ckmigrate 7\.0") as caught:
        parse_tag(text, where="a.pt")
    assert (caught.value.code, caught.value.where) == ("CKM405", "a.pt")


def test_a_hostile_writer_cannot_reach_the_terminal() -> None:
    text = json.dumps({"format": 2, "writer": "\x1b[2J" + "x" * 5000})
    with pytest.raises(IdentifyError) as caught:
        parse_tag(text)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"x"',
        "{",
        "{}",
        "NaN",
        '{"format": NaN}',
        '{"format": 1, "format": 1}',
        "[" * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        "\ud800",
    ],
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(IdentifyError) as caught:
        parse_tag(text, where="a.pt")
    assert caught.value.code == "CKM406"
    assert "--from" in (caught.value.fix or "")
    assert "stamp" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 0}, "format"),
        ({"format": True}, "format"),
        ({"format": 1.0}, "format"),
        ({"format": "1"}, "format"),
        ({"project": None}, "project"),
        ({"project": "a\nb"}, "project"),
        ({"project": "x" * 2000}, "project"),
        ({"name": 3}, "name"),
        ({"name": "\x1b[31m"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"release": 1.2}, "release"),
        ({"writer": ["x"]}, "writer"),
        ({"revision": ""}, "revision"),
        ({"revision": 7}, "revision"),
        ({"revision": "../../x"}, "revision"),
        ({"origin_revision": "a b"}, "origin_revision"),
        ({"origin": []}, "origin"),
        ({"origin": {"a": 1}}, "origin"),
        ({"history": {}}, "history"),
        ({"history": ["x"]}, "history"),
        ({"history": [{"revision": "a", "name": "b", "digest": "c", "meta": [["d"]]}]}, "meta"),
        ({"history": [{"revision": "a", "name": "b", "digest": "c", "meta": 3}]}, "meta"),
        ({"history": [{"revision": "a", "name": "b"}]}, "digest"),
        ({"history": [{"revision": None, "name": "b", "digest": "c"}]}, "history"),
        ({"history": [{"revision": "a", "name": "b", "digest": "c", "d": 1}]}, "unknown key d"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_every_field_is_checked(change: dict[str, object], says: str) -> None:
    with pytest.raises(IdentifyError) as caught:
        parse_tag(changed(**change))
    assert caught.value.code == "CKM406"
    assert says in (caught.value.why or "")


@pytest.mark.parametrize("key", list(json.loads(TAG.to_json())))
def test_every_field_is_needed(key: str) -> None:
    data = json.loads(TAG.to_json())
    del data[key]
    with pytest.raises(IdentifyError, match="malformed"):
        parse_tag(json.dumps(data))


def test_an_unchanged_tag_is_accepted() -> None:
    assert parse_tag(changed()) == TAG


def test_a_huge_tag_is_refused_unread() -> None:
    with pytest.raises(IdentifyError) as caught:
        parse_tag("[" * (MAX_BYTES + 1))
    assert caught.value.code == "CKM407"
