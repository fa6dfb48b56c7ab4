from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.strict import (
    TieDifference,
    compare,
    compare_ties,
    describe,
    describe_notes,
    describe_ties,
    notes,
)

ROW = TensorSpec(DType.F32, (64,))


def spec(dtype: DType, *shape: int) -> TensorSpec:
    return TensorSpec(dtype, shape)


def kinds(found: dict[str, TensorSpec], target: dict[str, TensorSpec]) -> list[tuple[str, str]]:
    return [(d.kind, d.name) for d in compare(Schema(found), Schema(target))]


def test_equal_schemas_have_no_differences_in_any_order() -> None:
    assert kinds({"a": ROW, "b": ROW}, {"b": ROW, "a": ROW}) == []


def test_names_are_compared_both_ways() -> None:
    assert kinds({"a": ROW, "x": ROW}, {"a": ROW, "b": ROW}) == [
        ("missing", "b"),
        ("unexpected", "x"),
    ]


def test_a_scalar_is_no_vector_of_one_though_torch_loads_it() -> None:
    scalar = nn.Module()
    scalar.register_buffer("n", torch.zeros(()))
    scalar.load_state_dict({"n": torch.ones(1)}, strict=True)
    assert kinds({"n": spec(DType.F32, 1)}, {"n": spec(DType.F32)}) == [("shape", "n")]


def test_shape_and_dtype_are_both_told() -> None:
    found = kinds({"a": spec(DType.I64, 2)}, {"a": spec(DType.F32, 3)})
    assert found == [("shape", "a"), ("dtype", "a")]


WIDTHS = [DType.F16, DType.BF16, DType.F32, DType.F64]


@given(st.sampled_from(DType), st.sampled_from(DType))
def test_only_the_usual_floats_stand_for_each_other(one: DType, other: DType) -> None:
    found, target = Schema({"a": spec(one, 3)}), Schema({"a": spec(other, 3)})
    fits = one is other or (one in WIDTHS and other in WIDTHS)
    assert (not compare(found, target)) == fits
    assert bool(notes(found, target)) == (fits and one is not other)


def test_a_pattern_exempts_whole_names() -> None:
    target = {"rope.inv_freq": ROW, "rope.inv_freq2": ROW, "l.0.rope.inv_freq": ROW}
    found = compare(Schema({}), Schema(target), exempt=["rope.inv_freq", "l.{i}.rope.*"])
    assert [d.name for d in found] == ["rope.inv_freq2"]
    assert compare(Schema({"a": ROW}), Schema({"a": spec(DType.I8, 1)}), exempt=["a"]) == ()
    assert compare(Schema({"x.y": ROW}), Schema({}), exempt=["x.**"]) == ()
    half = Schema({"a": spec(DType.F16, 64)})
    assert notes(half, Schema({"a": ROW}), exempt=["a"]) == ()


def test_one_of_a_tied_group_is_enough_only_on_request() -> None:
    target = Schema({"embed.weight": ROW, "head.weight": ROW, "b": ROW})
    ties = (("embed.weight", "head.weight"),)
    found = Schema({"head.weight": ROW, "b": ROW})
    assert [d.name for d in compare(found, target)] == ["embed.weight"]
    assert compare(found, target, ties=ties) == ()
    assert len(compare(Schema({"b": ROW}), target, ties=ties)) == 2


def test_lines_are_folded_and_grouped() -> None:
    target = {f"layers.{i}.gamma": ROW for i in range(12)} | {
        "head.weight": spec(DType.F32, 10, 256),
        "n": spec(DType.I64),
    }
    found = {
        "head.weight": spec(DType.F32, 10, 256, 1, 1),
        "aux.bias": spec(DType.F16, 3),
        "n": spec(DType.I32),
    }
    assert describe(compare(Schema(found), Schema(target))) == (
        "missing     layers.{0…11}.gamma [64] float32 — the model has it, the result does not",
        "unexpected  aux.bias [3] float16 — the result has it, the model does not",
        "shape       head.weight is [10,256,1,1], the model wants [10,256]",
        "dtype       n is int32, the model wants int64",
    )


def test_widths_are_told_as_notes() -> None:
    found = Schema({f"l.{i}.w": spec(DType.F16, 64) for i in range(3)})
    target = Schema({f"l.{i}.w": ROW for i in range(3)})
    assert describe_notes(notes(found, target)) == (
        "width       l.{0…2}.w is float16, the model wants float32",
    )


def test_a_likely_rename_is_proposed_to_the_most_alike() -> None:
    target = Schema({f"layers.{i}.norm1.{p}": ROW for i in range(4) for p in ("weight", "bias")})
    found = Schema({f"layers.{i}.ln1.{p}": ROW for i in range(4) for p in ("bias", "weight")})
    first, second, *_ = describe(compare(found, target))
    assert first.endswith("; perhaps renamed from layers.{0…3}.ln1.weight?")
    assert second.endswith("; perhaps renamed from layers.{0…3}.ln1.bias?")


@pytest.mark.parametrize(
    "found", [{"x": spec(DType.F32, 65)}, {"x": spec(DType.F16, 64)}, {f"x.{i}": ROW for i in "01"}]
)
def test_no_rename_is_proposed_for_other_specs_or_counts(found: dict[str, TensorSpec]) -> None:
    lines = describe(compare(Schema(found), Schema({"gamma": ROW})))
    assert not any("perhaps" in line for line in lines)


def test_an_unlike_name_is_proposed_only_without_rivals() -> None:
    alone = describe(compare(Schema({"x": ROW}), Schema({"gamma": ROW})))
    assert alone[0].endswith("; perhaps renamed from x?")
    rivals = describe(compare(Schema({"x": ROW, "y": ROW}), Schema({"gamma": ROW})))
    assert not any("perhaps" in line for line in rivals)


def test_one_entry_is_proposed_for_one_rename() -> None:
    found, target = Schema({"gamma": ROW}), Schema({"gamma1": ROW, "gammas1": ROW})
    lines = describe(compare(found, target))
    assert ["perhaps" in line for line in lines] == [True, False, False]


def test_ties_are_compared_among_what_both_have() -> None:
    names = ["a", "b", "c", "d", "e"]
    assert compare_ties([("a", "b")], [("b", "a")], names) == ()
    assert compare_ties([], [("a", "b")], names) == (TieDifference("untied", ("a", "b")),)
    assert compare_ties([("a", "b")], [], names) == (TieDifference("tied", ("a", "b")),)
    assert compare_ties([], [("a", "z")], names) == ()
    apart = compare_ties([("a", "b"), ("c", "d")], [("a", "b", "c", "d")], names)
    assert apart == (TieDifference("untied", ("a", "c")),)
    assert describe_ties(apart) == (
        "untied      a = c — one tensor in the model, stored apart in the result",
    )


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, ckmigrate.strict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
