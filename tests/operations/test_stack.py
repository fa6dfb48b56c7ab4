"""stack and unstack: many tensors ↔ one with a new dimension."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.scripted import refused, shapes, traced, undone, values_of

EXPERTS = {f"moe.experts.{i}.w": (2, 3) for i in reversed(range(12))}
STACK = 'ck.stack("moe.experts.{e:int}.w", "moe.w", dim=%d)'


def stored() -> dict[str, bytes]:
    return {f"moe.experts.{i}.w": np.full(6, i, "<f4").tobytes() for i in range(12)}


def test_stack_sorts_expert_10_after_9(tmp_path: Path) -> None:
    result = traced(tmp_path, STACK % 0, EXPERTS)
    assert shapes(result) == {"moe.w": (12, 2, 3)}
    values = np.frombuffer(values_of(result.end.entries["moe.w"], stored()), "<f4")
    assert values[::6].tolist() == [float(i) for i in range(12)]


def test_stack_along_the_last_dim(tmp_path: Path) -> None:
    result = traced(tmp_path, STACK % -1, EXPERTS)
    values = np.frombuffer(values_of(result.end.entries["moe.w"], stored()), "<f4")
    assert values.tolist() == [float(i) for i in range(12)] * 6


def test_stack_is_undone(tmp_path: Path) -> None:
    result = traced(tmp_path, STACK % 1, EXPERTS)
    back = undone(tmp_path, result)
    assert shapes(back) == EXPERTS
    data = np.arange(72, dtype="<f4").reshape(2, 12, 3)
    found = values_of(back.end.entries["moe.experts.11.w"], {"moe.w": data.tobytes()})
    assert found == data[:, 11].tobytes()


def test_stack_of_scalars(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.stack("s.{i}", "s")', {"s.0": (), "s.1": ()})
    assert shapes(result) == {"s": (2,)}


def test_stack_refuses_a_hole(tmp_path: Path) -> None:
    specs = {name: shape for name, shape in EXPERTS.items() if name != "moe.experts.4.w"}
    refused(tmp_path, STACK % 0, specs, "moe.w", "4", code="CKM508", operation="stack")


def test_stack_refuses_another_count(tmp_path: Path) -> None:
    body = 'ck.stack("moe.experts.{e:int}.w", "moe.w", count=16)'
    refused(tmp_path, body, EXPERTS, "12", "16", code="CKM521", operation="stack")


def test_stack_refuses_unequal_shapes(tmp_path: Path) -> None:
    specs = {"s.0": (2,), "s.1": (3,)}
    body = 'ck.stack("s.{i}", "s")'
    refused(tmp_path, body, specs, "'s.0'", "'s.1'", "[2]", "[3]", code="CKM523", operation="stack")


def test_stack_of_nothing(tmp_path: Path) -> None:
    refused(tmp_path, 'ck.stack("s.{i}", "t")', {"a": (2,)}, code="CKM505", operation="stack")
    body = 'ck.stack("s.{i}", "t", optional=True)'
    assert shapes(traced(tmp_path, body, {"a": (2,)})) == {"a": (2,)}


def test_unstack_and_back(tmp_path: Path) -> None:
    body = 'ck.unstack("moe.w", "moe.experts.{e}.w", dim=1)'
    result = traced(tmp_path, body, {"moe.w": (2, 12, 3)})
    assert shapes(result) == {f"moe.experts.{i}.w": (2, 3) for i in range(12)}
    data = np.arange(72, dtype="<f4").reshape(2, 12, 3)
    found = values_of(result.end.entries["moe.experts.7.w"], {"moe.w": data.tobytes()})
    assert found == data[:, 7].tobytes()
    assert shapes(undone(tmp_path, result)) == {"moe.w": (2, 12, 3)}


def test_unstack_needs_the_index_in_the_targets(tmp_path: Path) -> None:
    body = 'ck.unstack("moe.w", "moe.experts.w")'
    refused(tmp_path, body, {"moe.w": (2,)}, "moe.w", code="CKM532", operation="unstack")


def test_unstack_refuses_another_count(tmp_path: Path) -> None:
    body = 'ck.unstack("w", "w.{e}", count=3)'
    refused(tmp_path, body, {"w": (2,)}, "2", "3", code="CKM521", operation="unstack")


def test_unstack_of_no_rows_would_lose_the_entry(tmp_path: Path) -> None:
    body = 'ck.unstack("w", "w.{e}")'
    refused(tmp_path, body, {"w": (0, 3)}, "'w'", code="CKM521", operation="unstack")
