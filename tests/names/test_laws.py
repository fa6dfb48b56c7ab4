"""What holds for every pattern and every name."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError
from ckmigrate.names import compile_pattern, pair, substitute
from ckmigrate.names.rewriting import rewrite
from ckmigrate.names.search import search_reader
from tests.names.asking import captured, renamed
from tests.names.oracle import INSIDE, NAMES, PATTERNS, names_near, oracle, written


@given(st.data())
def test_matcher_agrees_with_trying_every_reading(data: st.DataObject) -> None:
    segments = data.draw(PATTERNS)
    name = data.draw(st.one_of(NAMES, names_near(segments)))
    assert captured(written(segments), name) == oracle(segments, name)


@given(st.data())
def test_search_and_flat_expression_read_alike(data: st.DataObject) -> None:
    segments = data.draw(PATTERNS)
    pattern = compile_pattern(written(segments))
    assume(pattern.fast is not None and not pattern.is_literal)
    name = data.draw(st.one_of(NAMES, names_near(segments)))
    found = search_reader(pattern.text, pattern.parts)(name)
    assert found == captured(pattern, name)


@given(st.data())
def test_substituting_what_was_matched_gives_the_name_back(data: st.DataObject) -> None:
    segments = data.draw(PATTERNS)
    name = data.draw(names_near(segments))
    pattern = compile_pattern(written(segments))
    found = pattern.match(name)
    if found is not None and name:
        assert substitute(pattern, found) == name


@given(st.lists(st.integers(0, 30), min_size=1, unique=True), st.integers(0, 12))
def test_shift_is_a_bijection_of_the_indices(layers: list[int], shift: int) -> None:
    names = [f"h.{layer}.w" for layer in layers]
    moved = renamed("h.{i}.w", f"h.{{i+{shift}}}.w", names)
    assert moved == {f"h.{layer}.w": f"h.{layer + shift}.w" for layer in layers}
    back = renamed("h.{i:int}.w", f"h.{{i-{shift}}}.w", list(moved.values()))
    assert {back[new]: new for new in back} == moved


@given(st.data())
def test_pair_is_a_bijection_or_an_error(data: st.DataObject) -> None:
    old = data.draw(PATTERNS)
    new = data.draw(st.permutations(old)) + data.draw(st.lists(INSIDE, max_size=1))
    names = data.draw(st.sets(st.one_of(names_near(old), names_near(new)), max_size=8))
    try:
        moved = pair(written(old), written(new), sorted(names))
    except MigrationError as error:
        refused = error.code
    else:
        refused = "CKM505"
        after = [*(names - moved.keys()), *moved.values()]
        assert len(set(after)) == len(after) == len(names)
    assert refused in {"CKM503", "CKM504", "CKM505", "CKM506"}


@given(st.permutations(["q", "k", "v", "o"]))
def test_alternatives_permute_names_in_one_step(order: list[str]) -> None:
    names = [f"{part}.{leaf}" for part in "qkvo" for leaf in ("w", "b")]
    moved = renamed("{q,k,v,o}.{p}", f"{{{','.join(order)}}}.{{p}}", names)
    assert sorted(moved.values()) == sorted(names)
    assert [moved[f"{part}.w"] for part in "qkvo"] == [f"{part}.w" for part in order]


@given(st.data())
def test_rename_that_moves_text_agrees_with_filling_in_what_was_captured(
    data: st.DataObject,
) -> None:
    old = data.draw(PATTERNS)
    new = data.draw(st.permutations(old))
    names = sorted(data.draw(st.sets(st.one_of(NAMES, names_near(old)), max_size=4)))
    source, target = compile_pattern(written(old)), compile_pattern(written(new))
    moved = rewrite(source, target, names)
    assume(moved is not None)
    assert moved == {
        name: substitute(target, captures)
        for name in names
        if (captures := source.match(name)) is not None
    }
