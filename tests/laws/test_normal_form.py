"""Laws of the constructors: rebuilding changes nothing, and parts of a whole are the whole."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate import expr as ex
from ckmigrate.expr import Concat, Expr, Fill, Reshape, Source, View
from tests.laws.chains import Case, bytes_of, cases, checkpoint, run


def rebuilt(expr: Expr) -> Expr:
    """The same tree, through the public constructors; a view by slices of its base's elements."""
    match expr:
        case Fill():
            return ex.fill(expr.element, expr.spec)
        case Reshape():
            return ex.reshape(rebuilt(expr.base), expr.spec.shape)
        case Concat():
            return ex.concat([rebuilt(part) for part in expr.parts], expr.dim)
        case View():
            base = rebuilt(expr.base)
            assert isinstance(base, Source | Reshape)
            return ex._view(base, expr.offset, expr.strides, expr.spec.shape)
        case _:
            return expr


def every_expression(case: Case) -> list[Expr]:
    return list(run(checkpoint(case.entries, case.ties), case.acts).entries.values())


@given(cases())
@settings(max_examples=150, deadline=None)
def test_constructors_are_idempotent(case: Case) -> None:
    for expr in every_expression(case):
        assert rebuilt(expr) == expr
        order = tuple(range(expr.spec.ndim))
        assert ex.permute(expr, order) == expr
        assert ex.reshape(expr, expr.spec.shape) == expr
        for dim, size in enumerate(expr.spec.shape):
            assert ex.slice_(expr, dim, 0, size) == expr
            assert ex.concat([expr], dim) == expr or not expr.spec.numel


@given(cases(), st.data())
@settings(max_examples=150, deadline=None)
def test_concat_of_slices_is_the_whole(case: Case, data: st.DataObject) -> None:
    stored = case.naive(0).bytes_by_name()
    for expr in every_expression(case):
        for dim, size in enumerate(expr.spec.shape):
            cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
            borders = itertools.pairwise([0, *cuts, size])
            whole = ex.concat([ex.slice_(expr, dim, a, b) for a, b in borders], dim)
            assert whole.spec == expr.spec
            assert bytes_of(whole, stored, case.schema) == bytes_of(expr, stored, case.schema)
            if isinstance(expr, Source) and expr.spec.numel:
                assert whole == expr


@given(cases(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_permutation_and_its_inverse_are_nothing(case: Case, data: st.DataObject) -> None:
    stored = case.naive(0).bytes_by_name()
    for expr in every_expression(case):
        order = data.draw(st.permutations(range(expr.spec.ndim)))
        back = [order.index(dim) for dim in range(expr.spec.ndim)]
        again = ex.permute(ex.permute(expr, order), back)
        assert bytes_of(again, stored, case.schema) == bytes_of(expr, stored, case.schema)
        if isinstance(expr, Source | View | Reshape) and expr.spec.numel:
            assert again == expr


@given(cases())
@settings(max_examples=100, deadline=None)
def test_a_normal_form_has_no_empty_and_no_joinable_parts(case: Case) -> None:
    for expr in every_expression(case):
        for node in ex.walk(expr):
            if isinstance(node, Concat):
                assert len(node.parts) > 1
                assert all(part.spec.numel for part in node.parts)
                assert not any(isinstance(p, Concat) and p.dim == node.dim for p in node.parts)
                pairs = itertools.pairwise(node.parts)
                assert all(ex._join(a, b, node.dim) is None for a, b in pairs)
            if isinstance(node, View):
                assert isinstance(node.base, Source | Reshape)
                assert node.spec.numel
                assert all(
                    (stride == 0) == (size == 1)
                    for size, stride in zip(node.spec.shape, node.strides, strict=True)
                )
