"""Law: a function of several outputs is called once, whoever takes them and in whatever order."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate import expr as ex
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.expr import Expr, Source
from ckmigrate.spec import DType, TensorSpec

SPEC = TensorSpec(DType.F32, (4,))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_every_call_runs_once_and_its_results_are_freed(data: st.DataObject) -> None:
    counts: dict[int, int] = {}
    values = {f"s{i}": torch.arange(4.0) + i for i in range(2)}
    known: list[tuple[Expr, torch.Tensor]] = [
        (Source(name, SPEC), value) for name, value in values.items()
    ]
    for number in range(data.draw(st.integers(1, 5))):
        outputs = data.draw(st.integers(1, 3))
        chosen = data.draw(st.lists(st.integers(0, len(known) - 1), min_size=1, max_size=3))

        def function(
            *tensors: torch.Tensor, number: int = number, outputs: int = outputs
        ) -> tuple[torch.Tensor, ...]:
            counts[number] = counts.get(number, 0) + 1
            total = sum(tensors, start=torch.zeros(4))
            return tuple(total * (k + 1) + number for k in range(outputs))

        results = ex.call(function, [known[i][0] for i in chosen], [SPEC] * outputs)
        exact = function(*(known[i][1] for i in chosen))
        known.extend(zip(results, exact, strict=True))
    counts.clear()
    wanted = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=8))
    evaluator = Evaluator(
        lambda name, first, count: values[name].numpy().tobytes()[4 * first : 4 * (first + count)]
    )
    for expr, _ in wanted:
        evaluator.expect(expr)
    for expr, value in wanted:
        assert evaluator.evaluate(expr).tobytes() == value.numpy().tobytes()
    assert all(count == 1 for count in counts.values())
    assert not evaluator._results


def test_a_long_chain_of_calls_is_walked_once_per_call() -> None:
    pair: tuple[Expr, ...] = (Source("a", SPEC), Source("b", SPEC))
    for _ in range(60):
        pair = ex.call(lambda x, y: (y, x), pair, [SPEC, SPEC])
    assert ex.sources(pair[0]) == ("a", "b")
    assert sum(1 for _ in ex.walk(pair[0])) < 200
    evaluator = Evaluator(lambda name, first, count: bytes(math.prod((count, 4))))
    evaluator.expect(pair[0])
    evaluator.expect(pair[1])
    assert evaluator.evaluate(pair[0]).tobytes() == bytes(16)
