"""Synthetic checkpoints as torch has them, and state dicts as ckmigrate describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from unittest import SkipTest

from ckmigrate.compile import start
from ckmigrate.loaded_tensors import tensor_from_bytes
from ckmigrate.meta import MetaEdit
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.synthetic import Values

if TYPE_CHECKING:
    import torch

__all__ = ["placeholders", "schema_of", "synthetic_state", "unwritten"]


def synthetic_state(base: Snapshot, values: Values) -> dict[str, torch.Tensor]:
    """The tensors of a synthetic checkpoint; those of a tied group are one."""
    sources = start(base.schema, ties=base.ties).entries
    made: dict[str, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, expr in sources.items():
        key = getattr(expr, "name", name)
        if key not in made:
            _require_torch_has(name, expr.spec)
            made[key] = tensor_from_bytes(bytearray(values.data(expr)), expr.spec)
        state[name] = made[key]
    return state


def _require_torch_has(name: str, spec: TensorSpec) -> None:
    import torch

    if getattr(torch, spec.dtype.torch_name or "", None) is None:
        raise SkipTest(f"torch {torch.__version__} has no {spec.dtype}, the dtype of '{name}'")


def schema_of(state: Mapping[str, torch.Tensor]) -> Schema:
    """The schema of a state dict."""
    return Schema((name, _spec(tensor)) for name, tensor in state.items())


def _spec(tensor: torch.Tensor) -> TensorSpec:
    dtype, shape = DType.parse(tensor.dtype), tuple(tensor.shape)
    # torch counts pairs of F4 elements.
    return TensorSpec(dtype, (*shape[:-1], shape[-1] * 2) if dtype is DType.F4 and shape else shape)


def unwritten(schema: Mapping[str, TensorSpec]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes whose memory nobody touches, so that it costs nothing."""
    import torch

    state = {}
    for name, spec in schema.items():
        _require_torch_has(name, spec)
        shape = list(spec.shape)
        if spec.dtype is DType.F4 and shape:
            shape[-1] //= 2
        state[name] = torch.empty(shape, dtype=getattr(torch, spec.dtype.torch_name or ""))
    return state


def placeholders(edits: Sequence[MetaEdit]) -> dict[str, object]:
    """Metadata in which every edit finds its place."""
    tree: dict[str, object] = {}
    made: set[str] = set()
    for edit in edits:
        target = edit.new or edit.path
        _hold(tree, target.split(".")[:-1])
        if edit.kind != "set" and edit.path not in made:
            *above, last = edit.path.split(".")
            _hold(tree, above).setdefault(last, "synthetic")
        made.add(target)
    return tree


def _hold(tree: dict[str, object], path: Sequence[str]) -> dict[str, object]:
    for key in path:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            inner = tree[key] = {}
        tree = inner
    return tree
