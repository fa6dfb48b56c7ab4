"""Moments are the expression of their weight on the old ones, and zero where it is new."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr, Fill, Source
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.moments import Moments
from tests.laws.chains import Case, cases, checkpoint, run
from tests.training.states import values

W, V = (Source(name, TensorSpec(DType.F32, (4, 3))) for name in "wv")
MASK = Source("mask", TensorSpec(DType.BOOL, (4, 3)))


def moments(names: str = "wv", dtype: DType = DType.F32, **more: Any) -> Moments:
    def find(name: str) -> Source | None:
        return Source(f"m.{name}", TensorSpec(dtype, (4, 3))) if name in names else None

    return Moments(find, "exp_avg", more.pop("fresh", 0), lambda name: name in "wv", **more)


def refusal(code: str, expr: Expr, follow: Moments) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        follow(expr)
    assert caught.value.code == code
    return caught.value


def test_a_new_part_is_zero_and_a_new_weight_has_none() -> None:
    ones = ex.fill(b"\0\0\x80?", TensorSpec(DType.F32, (2, 3)))
    grown = moments()(ex.concat([W, ones], 0))
    assert grown == ex.concat(
        [Source("m.w", W.spec), ex.fill(bytes(4), TensorSpec(DType.F32, (2, 3)))], 0
    )
    assert moments()(ones) is None
    assert moments("")(W) is None
    begun = moments(fresh=2)(ex.concat([W, V], 0))
    assert begun == ex.concat([Source("m.w", W.spec), Source("m.v", V.spec)], 0)


def test_a_weight_without_moments_counts_as_new_beside_one_that_has_some() -> None:
    made = moments("w", fresh=2)(ex.concat([W, V], 0))
    found = values(made, {"m.w": torch.ones(4, 3)}) if made else torch.empty(0)
    assert found.tolist() == [[1] * 3] * 4 + [[2] * 3] * 4


def test_a_dtype_of_its_own_stays_and_that_of_the_weight_goes_with_it() -> None:
    half = ex.cast(W, DType.BF16)
    own, like = moments(dtype=DType.F64)(half), moments()(half)
    assert own is not None
    assert own.spec.dtype is DType.F64
    assert like is not None
    assert like.spec.dtype is DType.BF16


def test_several_dtypes_in_one_weight_are_refused() -> None:
    def find(name: str) -> Source:
        return Source(f"m.{name}", TensorSpec(DType.F32 if name == "w" else DType.F64, (4, 3)))

    follow = Moments(find, "exp_avg", 0, lambda name: True)
    refusal("CKM564", ex.concat([W, V], 0), follow)


def call(moments: Any, *inputs: Expr, shape: tuple[int, ...] = (4, 3)) -> Expr:
    made = ex.call(lambda *t: t[0], inputs, [TensorSpec(DType.F32, shape)], moments=moments)
    return made[0]


def test_a_function_needs_a_rule() -> None:
    error = refusal("CKM562", call(None, W), moments(place=lambda call: "0001.py, line 9"))
    assert error.where == "0001.py, line 9"
    assert "moments=function" in (error.fix or "")
    assert moments("")(call(None, W)) is None


def test_same_keeps_those_of_the_one_input_of_its_shape() -> None:
    assert moments()(call("same", W, MASK)) == Source("m.w", W.spec)
    assert moments()(ex.slice_(call("same", W), 0, 1, 3)) == ex.slice_(
        Source("m.w", W.spec), 0, 1, 3
    )
    refusal("CKM568", call("same", W, V), moments())
    refusal("CKM568", call("same", W, shape=(3,)), moments())


def test_same_of_something_made_keeps_its_elements() -> None:
    joined = ex.concat([ex.slice_(V, 0, 0, 1), ex.slice_(W, 0, 0, 3)], 0)
    seen = ex.permute(call("same", joined), (1, 0))
    made = moments()(seen)
    held = {f"m.{n}": torch.arange(12.0).reshape(4, 3) + i for i, n in enumerate("wv")}
    assert made is not None
    wanted = torch.cat([held["m.v"][:1], held["m.w"][:3]]).T
    assert torch.equal(values(made, held), wanted)


def test_reset_is_none_for_the_whole_and_zero_for_a_part() -> None:
    assert moments()(call("reset", W)) is None
    part = moments()(ex.concat([call("reset", W), V], 0))
    assert isinstance(part, ex.Concat)
    assert isinstance(part.parts[0], Fill)
    assert part.parts[1] == Source("m.v", V.spec)


def test_a_function_gets_the_name_the_moments_and_what_is_no_parameter() -> None:
    def rule(name: str, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert name == "exp_avg"
        return weight * mask

    made = moments()(call(rule, W, MASK))
    assert made is not None
    held = {"m.w": torch.ones(4, 3), "mask": torch.eye(4, 3).bool()}
    assert torch.equal(values(made, held), torch.eye(4, 3))


@settings(max_examples=150, deadline=None)
@given(cases([DType.F32]))
def test_what_moves_in_a_weight_moves_alike_in_its_moments(case: Case) -> None:
    """With a weight as its own moments they are the weight, but zero where it is new."""
    end = run(checkpoint(case.entries, case.ties), case.acts).entries
    shapes = {name: entry.items.shape for name, entry in case.entries.items()}
    given_now = {n: torch.rand(tuple(shape)) + 1 for n, shape in shapes.items()}
    ones = {n: torch.ones(tuple(shape)) for n, shape in shapes.items()}
    specs = {name: TensorSpec(DType.F32, tuple(shape)) for name, shape in shapes.items()}
    follow = Moments(lambda name: Source(name, specs[name]), "exp_avg", 0, lambda name: True)
    for expr in end.values():
        made = follow(expr)
        assert (made is None) == (not ex.sources(expr))
        if made is not None:
            wanted = values(expr, given_now) * values(made, ones)
            assert torch.equal(values(made, given_now), wanted)
