"""Lowering: copy where runs are long, gather where they are short, compute for new numbers."""

from __future__ import annotations

import time

import pytest

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr, Random, Source
from ckmigrate.lower import Compute, Copy, FillRange, Gather, SourceRange, lower
from ckmigrate.spec import DType, TensorSpec


def source(*shape: int, name: str = "x", dtype: DType = DType.F32) -> Source:
    return Source(name, TensorSpec(dtype, shape))


def plain(name: str) -> bool:
    return True


def test_a_whole_tensor_is_one_range() -> None:
    assert lower(source(3, 5), plain) == Copy((SourceRange("x", 0, 60),))


def test_an_empty_tensor_is_no_range() -> None:
    assert lower(source(0, 5), plain) == Copy(())
    assert lower(ex.slice_(source(4), 0, 1, 1), plain) == Copy(())


def test_parts_and_constants_follow_one_another() -> None:
    border = ex.fill(b"\0\0\x80\x3f", TensorSpec(DType.F32, (2,)))
    grown = ex.concat((border, ex.slice_(source(8), 0, 2, 6), border), 0)
    assert lower(grown, plain) == Copy(
        (FillRange(border.element, 8), SourceRange("x", 8, 16), FillRange(border.element, 8))
    )


def test_long_rows_are_copied_and_short_ones_gathered() -> None:
    tall = ex.slice_(source(1000, 2000), 1, 0, 1000)
    work = lower(tall, plain)
    assert isinstance(work, Copy)
    assert len(work.ranges) == 1000
    assert lower(ex.slice_(source(1000, 8), 1, 0, 4), plain) == Gather()
    assert lower(ex.permute(source(300, 300), (1, 0)), plain) == Gather()


def test_a_source_that_is_not_plain_is_gathered() -> None:
    assert lower(source(3), lambda name: False) == Gather()
    assert lower(ex.fill(bytes(4), TensorSpec(DType.F32, (2,))), lambda name: False) == Copy(
        (FillRange(bytes(4), 8),)
    )


def test_only_casts_and_functions_need_torch() -> None:
    spec = TensorSpec(DType.F32, (2,))
    noise = Random("normal", (0.0, 1.0), "k", spec)
    assert lower(noise, plain) == Compute(torch=False)
    assert lower(ex.cast(source(2), DType.F16), plain) == Compute(torch=True)
    assert lower(ex.call(abs, [noise], [spec])[0], plain) == Compute(torch=True)


NARROW = source(4, 6, dtype=DType.F4)


@pytest.mark.parametrize(
    ("expr", "ranges"),
    [
        (NARROW, (SourceRange("x", 0, 12),)),
        (ex.slice_(NARROW, 0, 1, 3), (SourceRange("x", 3, 6),)),
        (ex.slice_(NARROW, 1, 2, 4), tuple(SourceRange("x", 3 * i + 1, 1) for i in range(4))),
        (ex.slice_(source(8, dtype=DType.F6_E2M3), 0, 4, 8), (SourceRange("x", 3, 3),)),
    ],
)
def test_narrow_elements_move_in_whole_bytes(expr: Expr, ranges: tuple[SourceRange, ...]) -> None:
    assert lower(expr, plain) == Copy(ranges)


@pytest.mark.parametrize(
    "expr",
    [
        ex.slice_(NARROW, 1, 1, 3),
        ex.permute(NARROW, (1, 0)),
        ex.slice_(source(8, dtype=DType.F6_E2M3), 0, 2, 6),
        ex.cast(NARROW, DType.F32),
        ex.cast(source(2), DType.F4),
        ex.call(abs, [NARROW], [TensorSpec(DType.F32, (2,))])[0],
        ex.call(abs, [source(2)], [TensorSpec(DType.F4, (2,))])[0],
        ex.permute(source(3000, 3000, dtype=DType.F4), (1, 0)),
    ],
)
def test_narrow_elements_that_would_be_cut_are_refused(expr: Expr) -> None:
    with pytest.raises(MigrationError) as caught:
        lower(expr, plain)
    assert caught.value.code == "CKM540"
    assert caught.value.why
    assert caught.value.fix


def test_narrow_elements_of_a_source_out_of_order_are_refused() -> None:
    with pytest.raises(MigrationError) as caught:
        lower(NARROW, lambda name: False)
    assert caught.value.code == "CKM540"


def test_neighbouring_ranges_are_one() -> None:
    x = source(4, 4)
    moved = ex.reshape(ex.permute(ex.reshape(x, (2, 2, 4)), (1, 0, 2)), (4, 4))
    again = ex.permute(ex.reshape(moved, (2, 2, 4)), (1, 0, 2))
    assert lower(ex.reshape(again, (16,)), plain) == Copy((SourceRange("x", 0, 64),))


def test_lowering_hopeless_cases_gives_up_early() -> None:
    x = source(2048, 2048)
    columns = [ex.slice_(x, 1, (i * 7) % 2048, (i * 7) % 2048 + 1) for i in range(2048)]
    mixed = ex.concat(columns, 1)
    began = time.process_time()
    assert lower(mixed, plain) == Gather()
    assert lower(ex.permute(source(20_000, 2000), (1, 0)), plain) == Gather()
    assert time.process_time() - began < 5
