"""Folded lines: every name once, nothing lost, and readable."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError
from ckmigrate.fold import Folded, expand, fold, fold_names, skeleton

SEGMENTS = st.one_of(
    st.sampled_from(["a", "w", "", "0", "1", "2", "3", "10", "01", "x1", "9" * 19, '"', "#"]),
    st.sampled_from(["{", "}", "{0…2}", "{0..2}", "…", "a,b", "..", "{}", "\ud800", "\n", "²"]),
    st.text(max_size=3),
)
NAMES = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
GRIDS = st.builds(
    lambda sides, gone: [
        f"l.{a}.e.{b}.{leaf}" for a in sides[0] for b in sides[1] for leaf in "wb"
    ][gone:],
    st.tuples(*[st.lists(st.integers(0, 12), min_size=1, unique=True)] * 2),
    st.integers(0, 3),
)


@given(
    st.dictionaries(NAMES, st.integers(0, 1), max_size=30),
    st.booleans(),
)
def test_expanding_every_line_gives_exactly_the_names(schema: dict[str, int], ascii: bool) -> None:  # noqa: A002
    lines = fold(schema, ascii=ascii)
    assert {name: line.value for line in lines for name in expand(line.pattern)} == schema
    assert sum(len(line.names) for line in lines) == len(schema)
    assert all(expand(line.pattern) == line.names for line in lines)


@given(GRIDS, st.booleans())
def test_grids_with_holes_fold_without_loss(names: list[str], ascii: bool) -> None:  # noqa: A002
    lines = fold_names(names, ascii=ascii)
    assert sorted(name for line in lines for name in expand(line)) == sorted(names)


@given(st.dictionaries(NAMES, st.integers(0, 1), max_size=30))
def test_lines_come_in_the_order_of_their_first_name(schema: dict[str, int]) -> None:
    place = {name: order for order, name in enumerate(schema)}
    firsts = [min(place[name] for name in line.names) for line in fold(schema)]
    assert firsts == sorted(firsts)


@given(NAMES)
def test_one_name_alone_survives(name: str) -> None:
    (line,) = fold({name: 0})
    assert line.names == expand(line.pattern) == (name,)


def test_line_stands_where_its_first_name_was_even_if_numbers_descend() -> None:
    assert fold_names(["h.5", "a", "h.1"]) == ("h.{1,5}", "a")


def test_layers_fold_to_one_line() -> None:
    names = ["embed.weight", *(f"layers.{i}.attn.weight" for i in range(32)), "head.weight"]
    assert fold_names(names) == ("embed.weight", "layers.{0…31}.attn.weight", "head.weight")
    assert fold_names(names, ascii=True)[1] == "layers.{0..31}.attn.weight"


def test_holes_are_listed_and_neighbours_of_three_are_a_range() -> None:
    assert fold_names(f"h.{i}" for i in (0, 2, 5)) == ("h.{0,2,5}",)
    assert fold_names(f"h.{i}" for i in (9, 0, 1, 2, 5, 6)) == ("h.{0…2,5,6,9}",)
    assert fold_names(["h.10", "h.2"]) == ("h.{2,10}",)


def test_only_equal_values_share_a_line() -> None:
    schema = {"h.0": "a", "h.1": "b", "h.2": "a"}
    assert fold(schema) == (
        Folded("h.{0,2}", "a", ("h.0", "h.2")),
        Folded("h.1", "b", ("h.1",)),
    )


def test_full_product_folds_in_both_positions() -> None:
    names = [f"l.{i}.e.{j}.w" for i in range(4) for j in range(8)]
    assert fold_names(names) == ("l.{0…3}.e.{0…7}.w",)


def test_incomplete_product_is_split_at_the_first_position() -> None:
    names = [f"l.{i}.e.{j}" for i in range(4) for j in range(8 if i != 2 else 3)]
    assert fold_names(names) == ("l.{0,1,3}.e.{0…7}", "l.2.e.{0…2}")


def test_names_with_special_characters_are_quoted_and_never_folded() -> None:
    names = ["a.{0…1}.0", "a.{0…1}.1", 'x."', '"x', "a,b.0"]
    lines = fold_names(names)
    assert len(lines) == len(names)
    assert [expand(line) for line in lines] == [(name,) for name in names]
    assert lines[2] == 'x."'


@pytest.mark.parametrize(
    "line",
    [
        "a.{",
        "a.}",
        "a.{}",
        "a.{x}",
        "a.{0…}",
        "a.{3…1}",
        "a.{01}",
        "a.{1,0}",
        "a.{0,0}",
        "a.{0…3,2}",
        "a{0…3}",
        "a,b",
        '"a',
        "a.{0…99999999999}",
        "{0…9999}.{0…9999}",
    ],
)
def test_text_that_fold_cannot_have_written_is_refused(line: str) -> None:
    with pytest.raises(MigrationError) as raised:
        expand(line)
    assert raised.value.code == "CKM509"
    assert line in raised.value.what
    assert raised.value.why
    assert raised.value.fix


def test_both_spellings_of_a_range_expand_alike() -> None:
    assert expand("h.{0..2}.w") == expand("h.{0…2}.w") == ("h.0.w", "h.1.w", "h.2.w")


def test_skeleton_hides_numbers_that_are_whole_segments() -> None:
    assert skeleton("layers.10.attn.weight") == "layers.#.attn.weight"
    assert skeleton("0.01.conv1.2") == "#.#.conv1.#"


def test_twenty_thousand_names_fold_quickly() -> None:
    schema = {f"l.{i}.e.{j}.{leaf}": leaf for i in range(100) for j in range(100) for leaf in "wb"}
    start = time.process_time()
    assert len(fold(schema)) == 2
    assert time.process_time() - start < 1  # about 0.08 s; the bound only catches a wrong order
