"""What a pattern means, what is none, and how long reading a name may take."""

from __future__ import annotations

import re
import time

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import compile_pattern, nearest, pair
from tests.names.asking import captured, code_of


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
