"""Real optimizer state as an inert tree and back, and expressions on real tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ckmigrate import expr as ex
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.expr import Call, Expr, Source
from ckmigrate.formats.pickle_tensors import contiguous_strides
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.carried import Carried, Labels
from ckmigrate.training.optimizer import carry_optimizers
from ckmigrate.training.param_groups import NewModel
from ckmigrate.training.param_names import Given, OldModel

Weights = Mapping[str, torch.Tensor]


class Tree:
    """A tree of real tensors made inert; knows which tensor is which."""

    def __init__(self, node: object) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.node = self._inert(node)

    def _inert(self, node: object) -> object:
        if isinstance(node, torch.Tensor):
            key = str(len(self.tensors))
            self.tensors[key] = node.detach().clone().contiguous()
            return inert_tensor(key, spec_of(node))
        if isinstance(node, dict):
            return {key: self._inert(part) for key, part in node.items()}
        if isinstance(node, list | tuple):
            parts = [self._inert(part) for part in node]
            return tuple(parts) if isinstance(node, tuple) else parts
        return node


def inert_tensor(key: str, spec: TensorSpec) -> Tensor:
    storage = Storage(key, spec.dtype, spec.nbytes)
    return Tensor(storage, spec, 0, contiguous_strides(spec.shape))


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(DType.parse(tensor.dtype), tuple(tensor.shape))


def values(expr: Expr, tensors: Weights) -> torch.Tensor:
    """An expression on real tensors."""

    def read(name: str, first: int, count: int) -> bytes:
        flat = tensors[name].detach().contiguous().reshape(-1)[first : first + count]
        return flat.view(torch.uint8).numpy().tobytes() if count else b""

    items = Evaluator(read).evaluate(expr)
    dtype = getattr(torch, str(expr.spec.dtype))
    data = bytearray(items.tobytes())
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.clone().reshape(expr.spec.shape)


def real(node: object, tensors: Weights) -> Any:
    """A tree with its tensors."""
    if isinstance(node, Tensor):
        return tensors[node.storage.key]
    if isinstance(node, dict):
        return {key: real(part, tensors) for key, part in node.items()}
    if isinstance(node, list | tuple):
        parts = [real(part, tensors) for part in node]
        return tuple(parts) if isinstance(node, tuple) else parts
    return node


def carried(
    states: Sequence[object],
    old: OldModel,
    new: NewModel,
    *,
    given: Given | None = None,
    place: Callable[[Call], str | None] = lambda call: None,
) -> tuple[list[Any], Carried]:
    """The state of optimizers after a migration, as torch takes it."""
    tree = Tree(list(states))
    assert isinstance(tree.node, list)
    nodes = [(("optimizers", number), node) for number, node in enumerate(tree.node)]
    labels = Labels((*old.weights, *new.entries))
    done = carry_optimizers(nodes, old, new, labels, given=given, place=place)
    held = {label: tree.tensors[tensor.storage.key] for label, tensor in done.sources.items()}
    for check in done.checks:
        assert torch.equal(values(check.left, held), values(check.right, held)), check.claim
    made = {f"new {label}": values(expr, held) for label, expr in done.entries.items()}
    inert = {label: inert_tensor(f"new {label}", e.spec) for label, e in done.entries.items()}
    built = [node.build(inert) for node in done.nodes]
    for node, one in zip(done.nodes, built, strict=True):
        assert not node.verify(one)
    return [real(one, {**tree.tensors, **made}) for one in built], done


def old_model(weights: Weights, **more: Any) -> OldModel:
    return OldModel({n: spec_of(t) for n, t in weights.items()}, order=tuple(weights), **more)


def unchanged(weights: Weights) -> dict[str, Expr]:
    return {name: Source(name, spec_of(tensor)) for name, tensor in weights.items()}


def new_model(entries: Mapping[str, Expr], order: Sequence[str] | None = None) -> NewModel:
    names = tuple(entries) if order is None else tuple(order)
    return NewModel(entries, names, frozenset(names))


def transposed(expr: Expr) -> Expr:
    return ex.permute(expr, tuple(reversed(range(expr.spec.ndim))))
