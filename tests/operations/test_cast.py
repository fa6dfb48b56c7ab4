"""cast: another dtype, rounded as torch rounds, reversible only where nothing is rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.expr import Source, is_exact_cast
from ckmigrate.spec import DType, TensorSpec
from tests.scripted import refused, traced, undone

TORCH = [d for d in DType if d.bits >= 8 and d.torch_name and hasattr(torch, d.torch_name)]
FLOATS = [d for d in TORCH if d.kind == "float" and d is not DType.F8_E8M0]


def torch_type(dtype: DType) -> torch.dtype:
    found = getattr(torch, dtype.torch_name or "")
    assert isinstance(found, torch.dtype)
    return found


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def evaluated(expr: ex.Expr, data: bytes) -> bytes:
    width = len(data) // max(1, expr.spec.numel)

    def read(name: str, first: int, count: int) -> bytes:
        return data[first * width : (first + count) * width]

    return Evaluator(read).evaluate(expr).tobytes()


@pytest.mark.parametrize("old", FLOATS, ids=str)
@pytest.mark.parametrize("new", FLOATS, ids=str)
def test_floats_are_rounded_as_torch_rounds(old: DType, new: DType) -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 3
    tensor = values.to(torch_type(old))
    expr = ex.cast(Source("x", TensorSpec(old, (200,))), new)
    assert evaluated(expr, raw(tensor)) == raw(tensor.to(torch_type(new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [(a, b) for a in TORCH for b in TORCH if a != b and is_exact_cast(a, b)],
    ids=str,
)
def test_an_exact_cast_gives_the_value_back(old: DType, new: DType) -> None:
    width = old.bits // 8
    if old is DType.BOOL:
        data = bytes([0, 1] * 32)
    elif old.kind == "int":
        data = bytes(range(256)) * width
    else:
        shape = torch.Generator().manual_seed(2)
        data = raw(torch.randn(64, generator=shape, dtype=torch.float64).to(torch_type(old)))
    tensor = torch.frombuffer(bytearray(data), dtype=torch_type(old))
    there = tensor.to(torch_type(new))
    assert raw(there.to(torch_type(old))) == data


def test_an_exact_cast_is_undone(tmp_path: Path) -> None:
    specs = {"w": TensorSpec(DType.F16, (2,))}
    result = traced(tmp_path, 'ck.cast("w", torch.float32)', specs)
    assert result.end.schema["w"].dtype is DType.F32
    assert undone(tmp_path, result).end.schema["w"].dtype is DType.F16


def test_a_rounding_cast_cannot_come_back(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.cast("w", "bfloat16")', {"w": (2,)})
    with pytest.raises(MigrationError) as caught:
        undone(tmp_path, result)
    assert "'w' is rounded from float32 to bfloat16" in caught.value.details[0]


def test_there_and_back_is_the_tensor_itself(tmp_path: Path) -> None:
    body = """
    ck.cast("w", "float32")
    ck.cast("w", "float16")
    """
    specs = {"w": TensorSpec(DType.F16, (2,))}
    result = traced(tmp_path, body, specs)
    assert result.end.entries == result.start.entries


@pytest.mark.parametrize("value", ["float('nan')", "300.0", "-1.0"])
def test_a_constant_that_the_dtype_lacks_is_left_to_torch(tmp_path: Path, value: str) -> None:
    body = f"""
    ck.init("w", shape=(2,), value=init.full({value}))
    ck.cast("w", "uint8")
    """
    result = traced(tmp_path, body, {})
    assert isinstance(result.end.entries["w"], ex.Cast)


def test_a_constant_is_cast_while_planning(tmp_path: Path) -> None:
    body = """
    ck.init("w", shape=(2,), value=init.full(2.5))
    ck.cast("w", "uint8")
    """
    result = traced(tmp_path, body, {})
    assert result.end.entries["w"] == ex.Fill(b"\x02", TensorSpec(DType.U8, (2,)))


@pytest.mark.parametrize(
    ("old", "new"), [(DType.F4, "float32"), (DType.F32, "bool"), (DType.F32, "F6_E2M3")]
)
def test_casts_that_are_none(tmp_path: Path, old: DType, new: str) -> None:
    body = f'ck.cast("w", "{new}")'
    specs = {"w": TensorSpec(old, (4,))}
    refused(tmp_path, body, specs, "'w'", str(old), code="CKM527", operation="cast")


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    body = 'ck.cast("w", "float33")'
    refused(tmp_path, body, {"w": (4,)}, "float33", code="CKM527", operation="cast")
