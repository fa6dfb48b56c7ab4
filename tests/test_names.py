"""Name patterns: one rule for reading a name, complete renames, and errors that name both ends."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckmigrate import names as names_module
from ckmigrate.errors import MigrationError
from ckmigrate.names import (
    Captures,
    Pair,
    PatternLike,
    compile_pattern,
    expand,
    groups,
    natural_key,
    nearest,
    pair,
    select,
    stack_groups,
    substitute,
)


def captured(pattern: PatternLike, name: str) -> dict[str, str] | None:
    found = compile_pattern(pattern).match(name)
    return None if found is None else dict(found)


def renamed(old: PatternLike, new: PatternLike, names: list[str]) -> dict[str, str]:
    return {entry.old: entry.new for entry in pair(old, new, names)}


def code_of(raised: pytest.ExceptionInfo[MigrationError]) -> str:
    error = raised.value
    assert error.what
    assert error.why
    assert error.fix
    return error.code


# A reader that shares nothing with the module: it tries every way to cut a name.


@dataclass(frozen=True)
class Piece:
    kind: str
    key: str = ""
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "text":
            return self.key
        if self.kind == "choice":
            return "{" + ",".join(self.options) + "}"
        mark = {"one": "", "int": ":int", "deep": ":**"}[self.kind]
        return f"{{{self.key}{mark}}}"


Segment = tuple[Piece, ...]
Reading = tuple[tuple[int, str, str], ...]  # cost, key, value of each wildcard


def written(segments: list[Segment]) -> str:
    return ".".join("".join(map(str, segment)) for segment in segments)


def cuts(segment: Segment, word: str) -> Iterator[Reading]:
    if not segment:
        if not word:
            yield ()
        return
    first, rest = segment[0], segment[1:]
    for end in range(len(word) + 1):
        value = word[:end]
        for cost in costs(first, value):
            head: Reading = () if first.kind == "text" else ((cost, first.key, value),)
            yield from (head + tail for tail in cuts(rest, word[end:]))


def costs(piece: Piece, value: str) -> list[int]:
    match piece.kind:
        case "text":
            return [0] if value == piece.key else []
        case "choice":
            return [piece.options.index(value)] if value in piece.options else []
        case "int":
            good = value.isdigit() and str(int(value)) == value
            return [len(value)] if good else []
    return [len(value)] if value else []


def readings(segments: list[Segment], words: list[str]) -> Iterator[Reading]:
    if not segments:
        if not words:
            yield ()
        return
    first, rest = segments[0], segments[1:]
    if first and first[0].kind == "deep":
        for count in range(len(words) + 1):
            if words[:count] != [""]:
                head: Reading = ((count, first[0].key, ".".join(words[:count])),)
                yield from (head + tail for tail in readings(rest, words[count:]))
    elif words:
        for head in cuts(first, words[0]):
            yield from (head + tail for tail in readings(rest, words[1:]))


def oracle(segments: list[Segment], name: str) -> dict[str, str] | None:
    found: list[tuple[list[int], dict[str, str]]] = []
    for reading in readings(segments, name.split(".")):
        values: dict[str, str] = {}
        choices = itertools.count()
        for cost, key, value in reading:
            place, text = (f"{{{next(choices)}}}", str(cost)) if not key else (key, value)
            if values.setdefault(place, text) != text:
                break
        else:
            found.append(([cost for cost, _, _ in reading], values))
    return min(found, key=lambda entry: entry[0])[1] if found else None


TEXTS = st.sampled_from(["a", "b", "ab", "_", "0", "1"])
KEYS = st.sampled_from(["x", "y", "z"])
PIECES = st.one_of(
    TEXTS.map(lambda text: Piece("text", text)),
    KEYS.map(lambda key: Piece("one", key)),
    KEYS.map(lambda key: Piece("int", key)),
    st.lists(st.sampled_from(["", "a", "ab", "b", "0"]), min_size=2, max_size=3, unique=True).map(
        lambda options: Piece("choice", "", tuple(options))
    ),
)
INSIDE = (
    st.lists(PIECES, min_size=1, max_size=4)
    .map(tuple)
    .filter(lambda segment: not all("" in piece.options for piece in segment))
)
DEEP = st.sampled_from(["r", "s"]).map(lambda key: (Piece("deep", key),))
PATTERNS = st.lists(st.one_of(INSIDE, DEEP), min_size=1, max_size=4)
NAMES = st.text(alphabet="ab01_.", min_size=0, max_size=9)


def values_of(piece: Piece) -> st.SearchStrategy[str]:
    return {
        "text": st.just(piece.key),
        "choice": st.sampled_from(piece.options or ("",)),
        "one": st.text("ab_", min_size=1, max_size=2),
        "int": st.sampled_from(["0", "1", "10", "01"]),
    }[piece.kind]


@st.composite
def names_near(draw: st.DrawFn, segments: list[Segment]) -> str:
    """A name that fits the shape of a pattern, mostly; random names seldom match anything."""
    words: list[str] = []
    for segment in segments:
        if segment[0].kind == "deep":
            words += draw(st.lists(st.text("ab1", max_size=2), max_size=2))
            continue
        words.append("".join(draw(values_of(piece)) for piece in segment))
    return ".".join(words)


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
    found = names_module._search_reader(pattern)(name)
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
        pairs = pair(written(old), written(new), sorted(names))
    except MigrationError as error:
        refused = error.code
    else:
        refused = "CKM505"
        untouched = names - {entry.old for entry in pairs}
        after = [*untouched, *(entry.new for entry in pairs)]
        assert len(set(after)) == len(after) == len(names)
    assert refused in {"CKM503", "CKM504", "CKM505", "CKM506"}


@given(st.permutations(["q", "k", "v", "o"]))
def test_alternatives_permute_names_in_one_step(order: list[str]) -> None:
    names = [f"{part}.{leaf}" for part in "qkvo" for leaf in ("w", "b")]
    moved = renamed("{q,k,v,o}.{p}", f"{{{','.join(order)}}}.{{p}}", names)
    assert sorted(moved.values()) == sorted(names)
    assert [moved[f"{part}.w"] for part in "qkvo"] == [f"{part}.w" for part in order]


# What a pattern means


@pytest.mark.parametrize(
    ("pattern", "name", "captures"),
    [
        ("fc.weight", "fc.weight", {}),
        ("blocks.{i}.{p}", "blocks.3.weight", {"i": "3", "p": "weight"}),
        ("block{i:int}_w", "block12_w", {"i": "12"}),
        ("{a}_{b}", "x_y_z", {"a": "x", "b": "y_z"}),
        ("*.*", "a.b", {"*0": "a", "*1": "b"}),
        ("a.**", "a", {"*0": ""}),
        ("a.**.w", "a.b.c.w", {"*0": "b.c"}),
        ("a.**.w", "a.w", {"*0": ""}),
        ("**.{x}.**", "a.b.c", {"*0": "", "x": "a", "*1": "b.c"}),
        ("{rest:**}.w", "a.b.w", {"rest": "a.b"}),
        ("{i}.{i}", "4.4", {"i": "4"}),
        ("{r:**}.x.{r:**}", "a.b.x.a.b", {"r": "a.b"}),
        ("attn.{q,k,v}.w", "attn.v.w", {"{0}": "2"}),
        ("weight{,_orig}", "weight", {"{0}": "0"}),
        ("weight{,_orig}", "weight_orig", {"{0}": "1"}),
        ("**.x", "a\nb.x", {"*0": "a\nb"}),
        ("{i:int}.{i}", "4.4", {"i": "4"}),
        ("{a,ab}{x}", "abc", {"{0}": "0", "x": "bc"}),
    ],
)
def test_pattern_captures(pattern: str, name: str, captures: dict[str, str]) -> None:
    assert captured(pattern, name) == captures


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("module.**", "modulelist.0.w"),
        ("**.weight", "fc.weight_scale_inv"),
        ("weight", "fc.weight"),
        ("fc.weight", "fc.weight.0"),
        ("weight", "weight_scale_inv"),
        ("blocks.{i}.w", "blocks.0.1.w"),
        ("blocks.*.w", "blocks.w"),
        ("blocks.{i:int}.w", "blocks.x.w"),
        ("blocks.{i:int}.w", "blocks.01.w"),
        ("{i}.{i}", "4.5"),
        ("{i}.{i:int}", "x.x"),
        ("weight*", "weight"),
        ("a.**", "ab"),
        ("fc.weight", "fcxweight"),
        ("fc.weight", "fc.weight\n"),
        ("{x}", "a\n.b"),
    ],
)
def test_pattern_is_anchored_and_never_matches_a_part_of_a_segment(pattern: str, name: str) -> None:
    assert captured(pattern, name) is None


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("", 1),
        ("a..b", 3),
        (".a", 1),
        ("a.", 3),
        ("a.{i", 3),
        ("a.i}", 4),
        ("{a{b}}", 1),
        ("a.***", 3),
        ("a**.b", 4),
        ("a.**b.c", 6),
        ("{i:float}", 1),
        ("{}", 1),
        ("a.{0}", 3),
        ("{q, k}", 1),
        ("{a.b,c}", 1),
        ("{q,q}", 1),
        ("{i+x}", 1),
        ("{,a}.b", 5),
        ("{{i}}", 1),
    ],
)
def test_bad_pattern_is_refused_with_its_place(pattern: str, place: int) -> None:
    with pytest.raises(MigrationError, match=rf"at character {place}\n") as raised:
        compile_pattern(pattern)
    assert code_of(raised) == "CKM501"
    assert repr(pattern) in raised.value.what


def test_pattern_with_too_many_wildcards_is_refused() -> None:
    with pytest.raises(MigrationError) as raised:
        compile_pattern(".".join(["*"] * 65))
    assert code_of(raised) == "CKM501"


def test_pattern_tells_what_it_is_made_of() -> None:
    pattern = compile_pattern("b.{i}.{q,k}.*.{rest:**}")
    assert pattern.captures == ("i", "rest")
    assert pattern.keys == ("i", "{0}", "*0", "rest")
    assert pattern.alternatives == (("q", "k"),)
    assert not pattern.is_literal
    assert compile_pattern("a.b").is_literal
    assert compile_pattern(pattern) is pattern


def test_something_that_is_no_pattern_is_refused() -> None:
    for wrong in (3, None, re.compile(b"a")):
        with pytest.raises(MigrationError) as raised:
            compile_pattern(wrong)  # type: ignore[arg-type]
        assert code_of(raised) == "CKM501"


def test_shift_on_the_source_side_is_refused() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("h.{i+1}.w", "h.{i}.w", ["h.0.w"])
    assert code_of(raised) == "CKM501"


# Time


def test_name_made_to_be_slow_is_read_quickly() -> None:
    pattern = ".".join(["**.*a"] * 8) + ".x.*"
    start = time.perf_counter()
    assert captured(pattern, ".".join(["aaaa"] * 40)) is None
    assert time.perf_counter() - start < 2


def test_name_with_too_many_readings_is_given_up() -> None:
    pattern = "{a}{b}{c}{d}{e}{a}{b}{c}{d}{e}x*"
    with pytest.raises(MigrationError) as raised:
        captured(pattern, "a" * 300)
    assert code_of(raised) == "CKM502"


def test_endless_name_is_refused_where_it_can_be_read_in_several_ways() -> None:
    with pytest.raises(MigrationError) as raised:
        captured("{a}_{b}", "_" * 5000)
    assert code_of(raised) == "CKM502"
    assert captured("{a}.**", "x." * 5000 + "x") is not None


def test_patterns_are_fast_on_twenty_thousand_names() -> None:
    parts = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
    names = dict.fromkeys(
        f"transformer.blocks.{layer}.{head}.{part}"
        for layer in range(100)
        for head in range(50)
        for part in parts
    )
    start = time.process_time()
    assert len(pair("transformer.**", "encoder.**", names)) == 20_000
    assert len(pair("transformer.blocks.{i}.{h}.qkv.{p}", "b.{i}.{h}.{p}", names)) == 10_000
    assert nearest("transformer.block.{i}.**", names)
    assert time.process_time() - start < 2  # about 0.15 s; the bound only catches a wrong order


# Regular expressions


def test_regular_expression_matches_the_full_name_and_captures_groups() -> None:
    names = ["conv_10a.w", "conv_9b.w", "xconv_9b.w", "conv_9b.weight"]
    expression = re.compile(r"conv_(?P<i>\d+)(?P<side>[ab])\.w")
    assert renamed(expression, "conv.{i-1}.{side}.w", names) == {
        "conv_10a.w": "conv.9.a.w",
        "conv_9b.w": "conv.8.b.w",
    }
    assert [found.name for found in select(expression, names)] == ["conv_9b.w", "conv_10a.w"]


def test_regular_expression_keeps_its_flags_and_odd_names() -> None:
    expression = re.compile(r"FC.(?P<x>.)", re.IGNORECASE | re.DOTALL)
    assert captured(expression, "fc.\n") == {"x": "\n"}
    assert captured(expression, "fc.\ud800") == {"x": "\ud800"}
    assert select(expression, []) == ()


def test_catastrophic_regular_expression_is_given_up_within_two_seconds() -> None:
    name = "a" * 38 + "b"
    start = time.perf_counter()
    with pytest.raises(MigrationError) as raised:
        select(re.compile(r"(a+)+"), ["ok", name])
    assert time.perf_counter() - start < 4  # half a second of processor time on a free machine
    assert code_of(raised) == "CKM502"
    assert name in raised.value.what


def test_catastrophic_regular_expression_does_not_hold_up_the_exit() -> None:
    script = (
        "import re\n"
        "from ckmigrate.errors import MigrationError\n"
        "from ckmigrate.names import select\n"
        "try:\n"
        "    select(re.compile('(a+)+'), ['a' * 38 + 'b'])\n"
        "except MigrationError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "CKM502"


def test_regular_expression_that_cannot_be_run_safely_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MigrationError) as raised:
        select(re.compile("a"), ["a"])
    assert code_of(raised) == "CKM502"


def test_regular_expression_stops_without_a_processor_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names_module, "_REGEX_SECONDS", 1000.0)
    monkeypatch.setattr(names_module, "_REGEX_WALL_SECONDS", 1.0)
    with pytest.raises(MigrationError) as raised:
        select(re.compile(r"(a+)+"), ["a" * 38 + "b"])
    assert code_of(raised) == "CKM502"


def test_regular_expression_cannot_be_a_target() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("a", re.compile("b"), ["a"])
    assert code_of(raised) == "CKM504"


# Order


def test_captured_integers_sort_as_integers() -> None:
    names = [f"moe.{expert}.w" for expert in sorted(range(12), key=str)]
    assert [found.captures["e"] for found in select("moe.{e}.w", names)] == [
        str(expert) for expert in range(12)
    ]


def test_alternatives_sort_in_the_order_of_the_pattern() -> None:
    names = [f"{part}.{layer}" for layer in (10, 9) for part in "kqv"]
    found = [entry.name for entry in select("{q,k,v}.{i}", names)]
    assert found == ["q.9", "q.10", "k.9", "k.10", "v.9", "v.10"]


def test_natural_key_orders_layers() -> None:
    names = ["layers.10.w", "layers.2.w", "layers.2", "block10_w", "block9_w"]
    assert sorted(names, key=natural_key) == [
        "block9_w",
        "block10_w",
        "layers.2",
        "layers.2.w",
        "layers.10.w",
    ]


# Substitution


@pytest.mark.parametrize(
    ("target", "captures", "name"),
    [
        ("x.{i+1}.w", {"i": "9"}, "x.10.w"),
        ("x.{i-9}", {"i": "9"}, "x.0"),
        ("enc.**", {"*0": "a.b"}, "enc.a.b"),
        ("enc.**", {"*0": ""}, "enc"),
        ("**", {"*0": "a"}, "a"),
        ("new.{rest}", {"rest": "a.b"}, "new.a.b"),
        ("a.{x,y}", {"{0}": "1"}, "a.y"),
        ("plain", {"i": "1", "*0": "z"}, "plain"),
    ],
)
def test_substitute_fills_a_target(target: str, captures: Captures, name: str) -> None:
    assert substitute(target, captures) == name


@pytest.mark.parametrize(
    ("target", "captures", "code"),
    [
        ("x.{i+1}", {"i": "a"}, "CKM503"),
        ("x.{i+1}", {"i": "01"}, "CKM503"),
        ("x.{i-1}", {"i": "0"}, "CKM503"),
        ("x.{i:int}", {"i": "a"}, "CKM503"),
        ("x.{i}", {"i": ""}, "CKM503"),
        ("**", {"*0": ""}, "CKM503"),
        ("x.{j}", {"i": "1"}, "CKM504"),
        ("x.*.*", {"*0": "a"}, "CKM504"),
        ("x.*", {"*0": "a", "*1": "b"}, "CKM504"),
        ("x.*", {"*0": "a.b"}, "CKM504"),
        ("{x,y}", {"{0}": "2"}, "CKM504"),
        ("{x,y}", {}, "CKM504"),
    ],
)
def test_substitute_refuses_what_does_not_fit(target: str, captures: Captures, code: str) -> None:
    with pytest.raises(MigrationError) as raised:
        substitute(target, captures)
    assert code_of(raised) == code
    assert target in raised.value.what


# Pairs


def test_pair_is_simultaneous() -> None:
    assert renamed("{a,b}.w", "{b,a}.w", ["a.w", "b.w", "c.w"]) == {"a.w": "b.w", "b.w": "a.w"}
    assert renamed("h.{i}", "h.{i+1}", ["h.0", "h.1"]) == {"h.0": "h.1", "h.1": "h.2"}


def test_pair_keeps_the_order_of_the_names() -> None:
    names = ["a.10", "a.9", "b", "a.x"]
    assert pair("a.{i}", "c.{i}", iter(names)) == (
        Pair("a.10", "c.10"),
        Pair("a.9", "c.9"),
        Pair("a.x", "c.x"),
    )


def test_pair_without_a_match_names_the_nearest_entries() -> None:
    names = [f"transformer.h.{layer}.attn.weight" for layer in range(12)]
    with pytest.raises(MigrationError) as raised:
        pair("transfomer.**", "x.**", names)
    assert code_of(raised) == "CKM505"
    assert "transformer.h.0.attn.weight" in str(raised.value)
    assert pair("transfomer.**", "x.**", names, optional=True) == ()


def test_pair_without_any_entry_says_so() -> None:
    with pytest.raises(MigrationError, match="no entry matches 'a'") as raised:
        pair("a", "b", [])
    assert code_of(raised) == "CKM505"


def test_pair_lists_every_collision_with_both_names() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("{m}.{i}.w", "m.{i}.w", ["a.0.w", "a.1.w", "b.0.w", "b.1.w"])
    assert code_of(raised) == "CKM506"
    assert raised.value.what == "'a.0.w' and 'b.0.w' would both become 'm.0.w'"
    assert raised.value.details == ("'a.1.w' and 'b.1.w' would both become 'm.1.w'",)


def test_pair_refuses_to_overwrite_an_entry() -> None:
    with pytest.raises(
        MigrationError, match="'a' would become 'b', which already exists"
    ) as raised:
        pair("a", "b", {"a": 1, "b": 2})
    assert code_of(raised) == "CKM506"


def test_pair_shortens_a_long_list_of_collisions() -> None:
    with pytest.raises(MigrationError) as raised:
        pair("{i}", "x", [str(number) for number in range(100)])
    assert len(raised.value.details) == 20
    assert raised.value.details[-1] == "and 79 more"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a.{i}", "b.{j}"),
        ("*.a.*", "b.*"),
        ("a.*", "b.*.*"),
        ("a.**", "b.*"),
        ("{q,k,v}", "{a,b}"),
        ("{q,k}", "{a,b,c}"),
        ("a.w", "{a,b}.w"),
        ("{a,b}.{c,d}", "x.{a,b}"),
    ],
)
def test_pair_refuses_sides_that_do_not_fit_whatever_the_names(old: str, new: str) -> None:
    with pytest.raises(MigrationError) as raised:
        pair(old, new, [], optional=True)
    assert code_of(raised) == "CKM504"
    assert new in raised.value.what


def test_regular_expression_for_a_prefix_needs_the_dot() -> None:
    names = ["module.fc.w", "modulelist.0.w"]
    assert renamed("module.**", "**", names) == {"module.fc.w": "fc.w"}
    assert renamed(re.compile(r"module\.(?P<r>.+)"), "{r}", names) == {"module.fc.w": "fc.w"}


# Alternatives, groups, stacks


def test_expand_writes_out_the_alternatives_in_order() -> None:
    assert expand("attn.{q,k,v}.{p}") == ("attn.q.{p}", "attn.k.{p}", "attn.v.{p}")
    assert expand("w{,_orig}") == ("w", "w_orig")
    assert expand("attn.{p}") == ("attn.{p}",)


def test_expand_refuses_two_groups_and_expressions() -> None:
    with pytest.raises(MigrationError) as raised:
        expand("{a,b}.{c,d}")
    assert code_of(raised) == "CKM501"
    with pytest.raises(MigrationError) as raised:
        expand(re.compile("a"))  # type: ignore[arg-type]
    assert code_of(raised) == "CKM504"


def test_groups_join_members_by_equal_captures() -> None:
    names = [f"b.{layer}.{part}.w" for part in "vqk" for layer in (10, 9)]
    found = groups(expand("b.{i}.{q,k,v}.w"), names)
    assert [dict(group.captures) for group in found] == [{"i": "9"}, {"i": "10"}]
    assert found[0].names == ("b.9.q.w", "b.9.k.w", "b.9.v.w")


def test_groups_of_plain_names_are_one_group() -> None:
    assert [group.names for group in groups(["b", "a"], ["a", "b"])] == [("b", "a")]


def test_groups_name_what_each_incomplete_group_has_and_lacks() -> None:
    names = ["b.0.q", "b.0.k", "b.0.v", "b.1.q", "b.1.v", "b.2.k"]
    with pytest.raises(MigrationError) as raised:
        groups(expand("b.{i}.{q,k,v}"), names)
    assert code_of(raised) == "CKM507"
    assert raised.value.what == "the group i=1 has b.1.q, b.1.v but lacks b.1.k"
    assert raised.value.details == ("the group i=2 has b.2.k but lacks b.2.q, b.2.v",)


def test_groups_refuse_no_match_and_members_of_different_captures() -> None:
    with pytest.raises(MigrationError) as raised:
        groups(["a.{i}", "b.{i}"], ["c.1"])
    assert code_of(raised) == "CKM505"
    assert groups(["a.{i}", "b.{i}"], ["c.1"], optional=True) == ()
    with pytest.raises(MigrationError) as raised:
        groups(["a.{i}", "b.{j}"], ["a.1", "b.1"])
    assert code_of(raised) == "CKM504"


def test_groups_refuse_two_names_for_one_member() -> None:
    with pytest.raises(MigrationError) as raised:
        groups([re.compile(r"[ab]\.(?P<i>\d)"), "c.{i}"], ["a.1", "b.1", "c.1"])
    assert code_of(raised) == "CKM506"


def test_stack_groups_order_indices_as_integers() -> None:
    names = [f"l.{layer}.e.{expert}.w" for layer in (1, 0) for expert in sorted(range(11), key=str)]
    found = stack_groups("l.{i}.e.{e:int}.w", "l.{i}.w", names)
    assert [group.target_name for group in found] == ["l.0.w", "l.1.w"]
    assert found[1].members == tuple((expert, f"l.1.e.{expert}.w") for expert in range(11))


def test_stack_groups_take_an_anonymous_or_listed_index() -> None:
    assert stack_groups("e.*.w", "w", ["e.1.w", "e.0.w"])[0].members == ((0, "e.0.w"), (1, "e.1.w"))
    assert stack_groups("{q,k}", "w", ["k", "q"])[0].members == ((0, "q"), (1, "k"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["e.0", "e.1", "e.3"], "index 2 is missing"),
        (["e.1", "e.2"], "index 0 is missing"),
        (["e.0", "e.999999999999999999"], "index 1, 2, 3, 4, 5 is missing"),
        (["e.0", "e.x"], "'e.x' has the index 'x'"),
        (["e.0", "e.00"], "'e.00' has the index '00'"),
    ],
)
def test_stack_groups_refuse_indices_with_holes(names: list[str], hint: str) -> None:
    with pytest.raises(MigrationError, match=hint) as raised:
        stack_groups("e.{e}", "w", names)
    assert code_of(raised) == "CKM508"


def test_stack_groups_refuse_two_entries_with_one_index() -> None:
    with pytest.raises(MigrationError, match=r"'a_0.b' and 'a.0_b'|'a.0_b' and 'a_0.b'") as raised:
        stack_groups(re.compile(r"a.(?P<e>\d).b"), "w", ["a_0.b", "a.0_b"])
    assert code_of(raised) == "CKM508"


def test_stack_groups_need_exactly_one_index() -> None:
    for target in ("{a}.{b}", "w"):
        with pytest.raises(MigrationError) as raised:
            stack_groups("{a}.{b}", target, ["x.0"])
        assert code_of(raised) == "CKM504"
    with pytest.raises(MigrationError) as raised:
        stack_groups("e.{e}", "w", ["f.0"])
    assert code_of(raised) == "CKM505"
    assert stack_groups("e.{e}", "w", ["f.0"], optional=True) == ()


# Near misses


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("fc.wieght", "fc.weight"),
        ("layers.12.attn.weight", "layers.11.attn.weight"),
        ("layer.{i}.attn.{p}", "layers.0.attn.weight"),
        ("layer.**", "layers.0.attn.weight"),
        ("**.heed.bias", "model.head.bias"),
        ("layers.{i}.atn.{weight,bias}", "layers.0.attn.weight"),
        ("not a {pattern", None),
    ],
)
def test_nearest_finds_the_likely_name(text: str, first: str | None) -> None:
    names = ["fc.weight", "model.head.bias", *(f"layers.{i}.attn.weight" for i in range(12))]
    found = nearest(text, names)
    assert (found[0] if found else None) == first


def test_nearest_names_first_what_only_has_a_prefix_more() -> None:
    names = ["backbone.fc1.weight", "net.layers.0.fc.weight", "net.layers.1.fc.weight", "fcx.b"]
    assert nearest("fc.{p}", names)[0].endswith(".fc.weight")
    assert nearest("layers.{i:int}.fc.{p}", names)[0].startswith("net.layers.")
    assert nearest("fc.weight", names)[0].startswith("net.layers.")
    assert "backbone.fc1.weight" not in nearest("fc.weight", names, 1)


def test_nearest_offers_one_name_for_a_set_of_layers_and_keeps_the_limit() -> None:
    names = [f"h.{layer}.{part}.weight" for layer in range(50) for part in ("q", "k", "v", "o")]
    assert len({name.split(".")[2] for name in nearest("h.0.x.weight", names, 4)}) == 4
    assert len(nearest("h.0.x.weight", names, 2)) == 2
    assert nearest("h", []) == ()
