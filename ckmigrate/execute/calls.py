"""Casts and functions on tensors: what torch computes, on the same bytes as everything else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckmigrate.errors import MigrationError
from ckmigrate.execute.items import contiguous, item_type
from ckmigrate.expr import Call
from ckmigrate.spec import DType, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

    Items = np.ndarray[Any, np.dtype[Any]]

__all__ = ["cast_items", "run_call"]


def cast_items(value: Items, old: TensorSpec, new: TensorSpec) -> Items:
    """The values in another dtype, rounded as torch rounds; `value` may be used up."""
    return _from_torch(_to_torch(value, old).to(_torch_dtype(new.dtype)), new)


def run_call(node: Call, inputs: list[Items]) -> tuple[Items, ...]:
    """Call the function on real tensors and check that it kept its word about the outputs, which
    are not writeable: several expressions may read them."""
    import torch

    tensors = [_to_torch(value, expr.spec) for value, expr in zip(inputs, node.inputs, strict=True)]
    try:
        # Same file, same scripts, same bytes; also where a claim works the values out again.
        with torch.no_grad(), _one_thread(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(node))
            answer = node.function(*tensors)
    except (Exception, SystemExit) as error:
        raise MigrationError(
            "CKM541",
            f"{node.label} raised {type(error).__name__}: {error}",
            why="The function of a compute step failed on the checkpoint's tensors.",
            fix="Correct the function in the script; nothing was written.",
        ) from error
    values = (answer,) if isinstance(answer, torch.Tensor) else answer
    if not isinstance(values, (tuple, list)) or len(values) != len(node.outputs):
        raise _broken_promise(node, f"{len(node.outputs)} tensors", repr(type(answer).__name__))
    found = tuple(
        _checked(node, value, spec) for value, spec in zip(values, node.outputs, strict=True)
    )
    for items in found:
        items.flags.writeable = False
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """How torch adds up numbers depends on how many threads share them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed(node: Call) -> int:
    text = f"{node.label}\n{node.key}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _checked(node: Call, value: object, spec: TensorSpec) -> Items:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _broken_promise(node, str(spec), type(value).__name__)
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        kind = "meta" if value.is_meta else "quantised" if value.is_quantized else value.layout
        raise _broken_promise(node, str(spec), f"a tensor that is not plain ({kind})")
    if str(value.dtype) != f"torch.{spec.dtype.torch_name}" or tuple(value.shape) != spec.shape:
        found = f"{value.dtype} [{','.join(map(str, value.shape))}]".removeprefix("torch.")
        raise _broken_promise(node, str(spec), found)
    return _from_torch(value.detach().cpu(), spec)


def _broken_promise(node: Call, expected: str, found: str) -> MigrationError:
    return MigrationError(
        "CKM542",
        f"{node.label} gave {found}, the plan says {expected}",
        why="Output shapes and dtypes are fixed when the migration is planned.",
        fix="Make the function return what `specs=` declares, whatever the values are.",
    )


def _torch_dtype(dtype: DType) -> torch.dtype:
    import torch

    found = getattr(torch, dtype.torch_name or "", None) if dtype.bits >= 8 else None
    if not isinstance(found, torch.dtype):
        raise MigrationError(
            "CKM543",
            f"torch {torch.__version__} cannot compute with {dtype}",
            why="Only copies and moves of this dtype are possible with it.",
            fix="Use another dtype, or a torch version that has this one.",
        )
    return found


def _to_torch(value: Items, spec: TensorSpec) -> torch.Tensor:
    import numpy as np
    import torch

    if math.prod(spec.shape) == 0:
        return torch.empty(spec.shape, dtype=_torch_dtype(spec.dtype))
    plain = contiguous(value)
    # A function may change what it is given, and what is not writeable has other readers.
    flat = (plain if plain.flags.writeable else plain.copy()).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat).view(_torch_dtype(spec.dtype)).reshape(spec.shape)


def _from_torch(value: torch.Tensor, spec: TensorSpec) -> Items:
    import torch

    if spec.numel == 0:
        import numpy as np

        return np.empty(spec.shape, item_type(spec.dtype))
    plain = value.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().view(item_type(spec.dtype)).reshape(spec.shape)
