"""Evaluation on opaque items: bits pass unchanged, sources are read once, chunks are the whole."""

from __future__ import annotations

import numpy as np
import pytest

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.execute import evaluate as evaluate_module
from ckmigrate.execute.evaluate import Evaluator, chunks, peak_cost, read_cost
from ckmigrate.execute.items import item_type
from ckmigrate.expr import Expr, Random, Source
from ckmigrate.spec import DType, TensorSpec


class Store:
    """Bytes by name, and a record of what was read."""

    def __init__(self, **data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[str, int, int]] = []
        self.width = 4

    def read(self, name: str, first: int, count: int) -> bytes:
        self.reads.append((name, first, count))
        return self.data[name][first * self.width : (first + count) * self.width]


def source(*shape: int, name: str = "x", dtype: DType = DType.F32) -> Source:
    return Source(name, TensorSpec(dtype, shape))


def test_nan_payloads_pass() -> None:
    values = np.array([0x7FA00001, 0xFFFFFFFF, 0x7F800001, 0x80000000], "<u4")
    store = Store(x=values.tobytes())
    turned = ex.permute(ex.reshape(source(4), (2, 2)), (1, 0))
    found = Evaluator(store.read).evaluate(turned)
    assert found.tobytes() == values.reshape(2, 2).T.tobytes()


def test_bool_bytes_pass() -> None:
    store = Store(x=bytes([0, 1, 2, 255]))
    store.width = 1
    expr = ex.permute(ex.reshape(source(4, dtype=DType.BOOL), (2, 2)), (1, 0))
    assert Evaluator(store.read).evaluate(expr).tobytes() == bytes([0, 2, 1, 255])


def test_sixteen_byte_items_pass() -> None:
    data = bytes(range(64))
    store = Store(x=data)
    store.width = 16
    expr = ex.permute(source(2, 2, dtype=DType.C128), (1, 0))
    found = Evaluator(store.read).evaluate(expr).tobytes()
    assert found == data[:16] + data[32:48] + data[16:32] + data[48:]


@pytest.mark.parametrize("dtype", [d for d in DType if d.bits >= 8], ids=str)
def test_items_are_as_wide_as_elements(dtype: DType) -> None:
    assert item_type(dtype).itemsize * 8 == dtype.bits


def test_a_view_reads_only_its_span() -> None:
    store = Store(x=bytes(400))
    Evaluator(store.read).evaluate(ex.slice_(source(10, 10), 0, 3, 5))
    assert store.reads == [("x", 30, 20)]


def test_shuffled_columns_read_their_source_once() -> None:
    data = np.arange(100, dtype="<f4").reshape(10, 10)
    store = Store(x=data.tobytes())
    order = [7, 3, 9, 0, 1, 5]
    expr = ex.concat([ex.slice_(source(10, 10), 1, i, i + 1) for i in order], 1)
    found = Evaluator(store.read).evaluate(expr)
    assert (found.view("<f4") == data[:, order]).all()
    assert len(store.reads) == 1
    assert read_cost(expr) <= data.nbytes


def test_far_apart_rows_are_read_apart() -> None:
    store = Store(x=bytes(4 * 1000 * 10))
    x = source(1000, 10)
    expr = ex.concat((ex.slice_(x, 0, 990, 991), ex.slice_(x, 0, 0, 1)), 0)
    Evaluator(store.read).evaluate(expr)
    assert sorted(store.reads) == [("x", 0, 10), ("x", 9900, 10)]
    assert read_cost(expr) == 80


def test_nothing_is_held_between_evaluations() -> None:
    store = Store(x=bytes(400), y=bytes(400))
    evaluator = Evaluator(store.read)
    for name in "xy":
        x = source(10, 10, name=name)
        evaluator.evaluate(ex.concat([ex.slice_(x, 1, i, i + 1) for i in (1, 0)], 1))
        assert not evaluator._held


@pytest.mark.parametrize(("limit", "count"), [(1, 10), (100, 5), (401, 2), (1 << 20, 1)])
def test_chunks_are_the_whole(limit: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "CHUNK_BYTES", limit)
    data = np.arange(200, dtype="<f4").reshape(10, 20)
    store = Store(x=data.tobytes())
    expr = ex.slice_(source(10, 20), 1, 3, 17)
    pieces = chunks(expr)
    assert len(pieces) == count
    evaluator = Evaluator(store.read)
    found = b"".join(evaluator.evaluate(piece).tobytes() for piece in pieces)
    assert found == data[:, 3:17].tobytes()


def test_what_would_be_read_again_and_again_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "CHUNK_BYTES", 16)
    turned = ex.permute(source(50, 50), (1, 0))
    assert chunks(turned) == [turned]
    noise = Random("normal", (0.0, 1.0), "k", TensorSpec(DType.F32, (100,)))
    assert chunks(noise) == [noise]
    (made,) = ex.call(abs, [source(100)], [TensorSpec(DType.F32, (100,))])
    assert chunks(made) == [made]


def test_a_cast_is_cut_like_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "CHUNK_BYTES", 16)
    values = np.linspace(-3, 3, 40, dtype="<f4")
    store = Store(x=values.tobytes())
    pieces = chunks(ex.cast(source(40), DType.F16))
    assert len(pieces) == 5
    evaluator = Evaluator(store.read)
    found = b"".join(evaluator.evaluate(piece).tobytes() for piece in pieces)
    assert found == values.astype("<f2").tobytes()


def test_two_results_of_one_call_are_two_evaluations_of_one_run() -> None:
    runs = []

    def function(x: object) -> tuple[object, object]:
        runs.append(1)
        return x, x

    spec = TensorSpec(DType.F32, (2,))
    one, two = ex.call(function, [source(2)], [spec, spec])
    evaluator = Evaluator(Store(x=bytes(8)).read)
    evaluator.expect(one)
    evaluator.expect(two)
    evaluator.evaluate(one)
    evaluator.evaluate(two)
    assert len(runs) == 1
    assert not evaluator._results


def test_lazy_conjugates_and_expanded_results_are_written_out() -> None:
    import torch

    spec = TensorSpec(DType.C64, (2, 2))
    (made,) = ex.call(lambda x: torch.conj(x * 1j).expand(2, 2), [source(2)], [spec])
    found = Evaluator(Store(x=np.array([1, 2], "<f4").tobytes()).read).evaluate(made)
    values = np.frombuffer(found.tobytes(), "<c8")
    assert values.tolist() == [-1j, -2j, -1j, -2j]


def test_a_dtype_that_torch_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delattr(torch, "uint16")
    with pytest.raises(MigrationError) as caught:
        Evaluator(Store(x=bytes(8)).read).evaluate(ex.cast(source(2), DType.U16))
    assert caught.value.code == "CKM543"


@pytest.mark.parametrize(
    ("expr", "least"),
    [
        (source(100), 400),
        (ex.permute(source(10, 10), (1, 0)), 800),
        (ex.cast(source(100), DType.F64), 400 + 1600),
        (Random("normal", (0.0, 1.0), "k", TensorSpec(DType.F32, (100,))), 4000),
        (ex.fill(bytes(4), TensorSpec(DType.F32, (1 << 40,))), 0),
    ],
)
def test_memory_is_estimated_from_the_expression(expr: Expr, least: int) -> None:
    assert least <= peak_cost(expr) <= 2 * least
