"""The normal form: what the constructors return, example by example. Laws: `laws/`."""

from __future__ import annotations

import time

import pytest

from ckmigrate import expr as ex
from ckmigrate.expr import Cast, Concat, Expr, Fill, Reshape, Result, Source, View
from ckmigrate.spec import DType, TensorSpec


def source(*shape: int, name: str = "x", dtype: DType = DType.F32) -> Source:
    return Source(name, TensorSpec(dtype, shape))


def halves(x: Expr, dim: int = 0) -> tuple[Expr, Expr]:
    size = x.spec.shape[dim]
    return ex.slice_(x, dim, 0, size // 2), ex.slice_(x, dim, size // 2, size)


def test_a_whole_is_put_together_from_its_slices() -> None:
    x = source(6, 4)
    for dim in (0, 1):
        assert ex.concat(halves(x, dim), dim) == x
    rows = [ex.slice_(x, 0, i, i + 1) for i in range(6)]
    assert ex.concat(rows, 0) == x


def test_slices_in_another_order_are_not_the_whole() -> None:
    left, right = halves(source(6, 4))
    assert ex.concat((right, left), 0) == Concat((right, left), 0, TensorSpec(DType.F32, (6, 4)))


def test_a_view_of_a_view_is_one_view() -> None:
    x = source(8, 6)
    once = ex.slice_(ex.permute(ex.slice_(x, 0, 2, 8), (1, 0)), 1, 1, 5, 2)
    assert once == View(x, 3 * 6, (1, 12), TensorSpec(DType.F32, (6, 2)))
    assert ex.permute(ex.permute(x, (1, 0)), (1, 0)) == x


def test_reshape_of_a_transposed_matrix_needs_a_node_and_back_does_not() -> None:
    turned = ex.permute(source(2, 3), (1, 0))
    flat = ex.reshape(turned, (6,))
    assert flat == Reshape(turned, TensorSpec(DType.F32, (6,)))  # type: ignore[arg-type]
    assert ex.reshape(flat, (3, 2)) == turned


def test_splitting_a_dimension_of_a_view_stays_a_view() -> None:
    turned = ex.permute(source(4, 6), (1, 0))
    assert isinstance(ex.reshape(turned, (2, 3, 4)), View)
    assert isinstance(ex.reshape(turned, (6, 2, 2)), View)
    assert isinstance(ex.reshape(turned, (3, 8)), Reshape)


def test_a_concatenation_keeps_its_seams_under_a_reshape() -> None:
    x, y = source(2, 3), source(4, 3, name="y")
    both = ex.concat((x, y), 0)
    assert ex.reshape(both, (18,)) == ex.concat((ex.reshape(x, (6,)), ex.reshape(y, (12,))), 0)
    assert ex.reshape(ex.reshape(both, (18,)), (6, 3)) == both
    assert isinstance(ex.reshape(both, (9, 2)), Concat)
    assert isinstance(ex.reshape(both, (2, 9)), Reshape)


def test_a_slice_passes_through_a_reshape_of_whole_rows() -> None:
    both = ex.concat((source(2, 3), source(4, 3, name="y")), 0)
    blocks = ex.reshape(both, (2, 9))
    found = ex.slice_(blocks, 0, 1, 2)
    assert ex.sources(found) == ("y",)


def test_a_slice_takes_only_the_parts_that_it_needs() -> None:
    both = ex.concat((source(4, 3), source(4, 3, name="y")), 0)
    assert ex.slice_(both, 0, 4, 8) == source(4, 3, name="y")
    assert ex.sources(ex.slice_(both, 0, 3, 5)) == ("x", "y")
    stepped = ex.slice_(both, 0, 1, 8, 3)
    assert stepped.spec.shape == (3, 3)
    x, y = source(4, 3), source(4, 3, name="y")
    every_third = ex.slice_(both, 0, 0, 8, 3)
    assert every_third == ex.concat((ex.slice_(x, 0, 0, 4, 3), ex.slice_(y, 0, 2, 3)), 0)
    assert ex.slice_(both, 1, 0, 1).spec.shape == (8, 1)


def test_blocks_that_continue_each_other_are_joined() -> None:
    x, y = source(4, 3), source(4, 3, name="y")
    rows = ex.concat((x, y), 1)
    assert ex.concat(halves(rows), 0) == rows


def test_constants_join_only_with_equal_constants() -> None:
    spec = TensorSpec(DType.F32, (2,))
    zero, one = ex.fill(bytes(4), spec), ex.fill(b"\1\0\0\0", spec)
    assert ex.concat((zero, zero), 0) == ex.fill(bytes(4), TensorSpec(DType.F32, (4,)))
    assert isinstance(ex.concat((zero, one), 0), Concat)
    assert ex.slice_(one, 0, 1, 2) == ex.fill(b"\1\0\0\0", TensorSpec(DType.F32, (1,)))


def test_all_empty_tensors_of_a_spec_are_one() -> None:
    empty = ex.slice_(source(4, 3), 0, 2, 2)
    assert empty == ex.slice_(source(4, 3, name="y"), 0, 0, 0)
    assert isinstance(empty, Fill)
    assert ex.concat((empty, source(4, 3)), 0) == source(4, 3)


def test_sources_of_other_names_and_gaps_are_never_joined() -> None:
    x, y = source(4), source(4, name="y")
    assert isinstance(ex.concat((ex.slice_(x, 0, 0, 2), ex.slice_(y, 0, 2, 4)), 0), Concat)
    assert isinstance(ex.concat((ex.slice_(x, 0, 0, 1), ex.slice_(x, 0, 2, 4)), 0), Concat)
    assert isinstance(ex.concat((x, x), 0), Concat)


def test_casts_move_to_the_outside() -> None:
    x = source(4, 3)
    low = ex.cast(x, DType.BF16)
    assert ex.permute(low, (1, 0)) == ex.cast(ex.permute(x, (1, 0)), DType.BF16)
    assert ex.slice_(low, 0, 1, 2) == ex.cast(ex.slice_(x, 0, 1, 2), DType.BF16)
    assert ex.concat(halves(low), 0) == low
    assert ex.cast(ex.cast(low, DType.F32), DType.F16) == ex.cast(low, DType.F16)


def test_a_rounding_cast_under_another_stays() -> None:
    low = ex.cast(source(4), DType.BF16)
    assert ex.cast(low, DType.F32) == Cast(low, TensorSpec(DType.F32, (4,)))


def test_results_are_equal_only_of_one_call() -> None:
    spec = TensorSpec(DType.F32, (2,))
    one = ex.call(abs, [source(2)], [spec, spec])
    two = ex.call(abs, [source(2)], [spec, spec])
    assert one[0] == one[0]
    assert one[0] != one[1]
    assert one[0] != two[0]
    assert isinstance(one[0], Result)


def test_scalars_go_through_everything() -> None:
    x = source()
    assert ex.permute(x, ()) == x
    assert ex.reshape(ex.reshape(x, (1, 1)), ()) == x
    assert ex.concat([ex.reshape(x, (1,))], 0) == ex.reshape(x, (1,))


@pytest.mark.parametrize("dim", [0, 1])
def test_256_experts_are_joined_and_parted_fast(dim: int) -> None:
    experts = [source(64, 64, name=f"e{i}") for i in range(256)]
    began = time.process_time()
    for _ in range(20):
        whole = ex.concat(experts, dim)
        parts = [ex.slice_(whole, dim, 64 * i, 64 * i + 64) for i in range(256)]
    assert parts == experts
    assert time.process_time() - began < 4


def test_a_slice_across_the_rows_of_a_reshape_is_not_a_slice_of_its_base() -> None:
    both = ex.concat((source(2, 3), source(4, 3, name="y")), 0)
    across = ex.slice_(ex.reshape(both, (2, 9)), 1, 3, 6)
    assert across.spec.shape == (2, 3)
    assert ex.sources(across) == ("x", "y")


def test_a_size_that_does_not_divide_a_run_needs_a_reshape() -> None:
    turned = ex.permute(source(4, 6), (1, 0))
    assert isinstance(ex.reshape(turned, (2, 4, 3)), Reshape)


def test_a_row_and_a_column_are_never_joined() -> None:
    x = source(4, 4)
    row, column = ex.slice_(x, 0, 0, 1), ex.slice_(ex.permute(x, (1, 0)), 0, 1, 2)
    assert isinstance(ex.concat((row, column), 0), Concat)


def test_rows_of_blocks_with_other_seams_are_never_joined() -> None:
    def row(zeros: int) -> Expr:
        parts = [(bytes(4), zeros), (b"\1\0\0\0", 5 - zeros)]
        return ex.concat([ex.fill(e, TensorSpec(DType.F32, (1, n))) for e, n in parts], 1)

    both = ex.concat((row(2), row(3)), 0)
    assert isinstance(both, Concat)
    assert both.parts == (row(2), row(3))
