"""--rename and --map: what they say, and every way to say it wrongly."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from ckmigrate.autogenerate.wishes import Wish, Wishes, fitted, parse_rename, read_map
from ckmigrate.errors import UsageError
from tests.autogenerate.drafts import side

SIDES = [
    side(
        {"body.0.w": (1,), "body.1.w": (1,), "fc": (2,)},
        {"enc.0.w": (1,), "enc.1.w": (1,), "head": (2,), "gain": (1,)},
    )
]


def read(folder: Path, text: str) -> Wishes:
    path = folder / "map.toml"
    path.write_text(text)
    return read_map(path)


def test_a_rename_is_two_patterns() -> None:
    wish = parse_rename(" body.{i}.w = enc.{i}.w ")
    assert (wish.pattern, wish.value) == ("body.{i}.w", "enc.{i}.w")


@pytest.mark.parametrize("text", ["", "a", "=b", "a=", " = "])
def test_half_a_rename_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rename(text)
    assert caught.value.code == "CKM250"


def test_a_map_has_three_tables(tmp_path: Path) -> None:
    wishes = read(
        tmp_path,
        '# what became what\n[renames]\n"body.**" = "enc.**"\nfc = "head"\n'
        '[drop]\n"aux.**" = "unused"\n[init]\ngain = "full(1e-5)"\nbias = "init.zeros()"\n',
    )
    assert [(w.pattern, w.value) for w in wishes.renames] == [("body.**", "enc.**"), ("fc", "head")]
    assert [(w.pattern, w.value) for w in wishes.drops] == [("aux.**", "unused")]
    assert [w.value for w in wishes.inits] == ["init.full(1e-5)", "init.zeros()"]
    places = [w.where.rpartition(", ")[2] for w in (*wishes.renames, *wishes.drops, *wishes.inits)]
    assert places == ["line 3", "line 4", "line 6", "line 8", "line 9"]


def test_the_map_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "autogenerate.md"
    block = page.read_text().partition("```toml\n")[2].partition("```")[0]
    wishes = read(tmp_path, textwrap.dedent(block))
    assert [len(part) for part in (wishes.renames, wishes.drops, wishes.inits)] == [1, 1, 1]


def test_a_map_may_be_empty(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Wishes()


@pytest.mark.parametrize(
    ("text", "code", "line", "word"),
    [
        ("[renames\n", "CKM251", 1, "map.toml"),
        ('[renames]\na = "b"\na = "c"\n', "CKM251", 3, "map.toml"),
        ('\n[rename]\na = "b"\n', "CKM252", 2, "no table [rename]"),
        ('renames = "a=b"\n', "CKM252", 1, "'renames' is not a table"),
        ("[drop]\n\naux = true\n", "CKM252", 3, "the value of 'aux' in [drop]"),
        ('[drop]\naux = " "\n', "CKM252", 2, "the value of 'aux' in [drop]"),
        ("[renames]\nbody.x = 3\n", "CKM252", 2, "the value of 'body' in [renames]"),
        ('[init]\ng = "one()"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "ones"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "full()"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "full(zeros())"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "Initialiser(1)"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "full(__import__(1))"\n', "CKM252", 2, "not an initialiser"),
        ('[init]\ng = "full(("\n', "CKM252", 2, "not an initialiser"),
    ],
)
def test_a_bad_map_names_the_line(
    tmp_path: Path, text: str, code: str, line: int, word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.code == code
    assert word in caught.value.what
    assert caught.value.where == f"{tmp_path / 'map.toml'}, line {line}"


def test_an_absent_or_binary_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the map"):
        read_map(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read the map"):
        read_map(tmp_path / "b.toml")


def test_the_name_of_a_module_is_enough() -> None:
    wishes = fitted(Wishes((parse_rename("body=enc"), parse_rename("fc=head"))), SIDES)
    assert [(w.pattern, w.value) for w in wishes.renames] == [("body.**", "enc.**"), ("fc", "head")]


def test_a_wish_that_matches_nothing_is_refused_with_the_nearest_names() -> None:
    for wishes in (
        Wishes((parse_rename("bodi.**=enc.**"),)),
        Wishes(drops=(Wish("body.2.w", "gone", "x.toml, line 2"),)),
        Wishes(inits=(Wish("gian", "init.ones()", "x.toml, line 2"),)),
    ):
        with pytest.raises(UsageError) as caught:
            fitted(wishes, SIDES)
        assert caught.value.code == "CKM250"
        assert "Nearest: " in str(caught.value.why)


def test_a_bad_pattern_is_an_error_of_usage() -> None:
    with pytest.raises(UsageError) as caught:
        fitted(Wishes((parse_rename("{i=x"),)), SIDES)
    assert (caught.value.code, caught.value.where) == ("CKM250", "--rename '{i=x'")


@pytest.mark.parametrize(
    "text", ["fc=haed", "body=encoder", "body.{i}.w=boby.{i}.w", "body.1.w=gian"]
)
def test_a_rename_to_where_the_model_has_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        fitted(Wishes((parse_rename(text),)), SIDES)
    assert (caught.value.code, caught.value.where) == ("CKM250", f"--rename {text!r}")
    assert caught.value.what.startswith("the model has nothing named")
    assert caught.value.why


def test_the_nearest_names_of_the_model_are_told() -> None:
    with pytest.raises(UsageError) as caught:
        fitted(Wishes((parse_rename("fc=haed"),)), SIDES)
    assert caught.value.why == "Nearest: head."


@pytest.mark.parametrize("text", ["blocks=layers", "blocks.{i}.q.w=layers.{i}.first.w"])
def test_parts_that_are_joined_later_may_go_where_the_whole_will_be(text: str) -> None:
    parts = {f"blocks.{i}.{p}.w": (2, 2) for i in range(2) for p in "qkv"}
    sides = [side(parts, {f"layers.{i}.qkv.w": (6, 2) for i in range(2)})]
    assert fitted(Wishes((parse_rename(text),)), sides).renames


def test_a_name_that_another_rename_or_drop_sets_free_may_be_given_again() -> None:
    sides = [side({"a": (1,), "b": (1,), "c": (1,)}, {"b": (1,), "d": (1,)})]
    renames = (parse_rename("b=d"), parse_rename("a=b"))
    assert len(fitted(Wishes(renames), sides).renames) == 2
    drops = (Wish("b", "gone", "m.toml"),)
    assert fitted(Wishes((parse_rename("a=b"), parse_rename("c=d")), drops), sides).drops


def test_one_model_of_several_is_enough_for_a_rename() -> None:
    other = side({"fc": (2,)}, {"fc": (2,)}, "other")
    assert fitted(Wishes((parse_rename("fc=head"),)), [other, *SIDES]).renames
