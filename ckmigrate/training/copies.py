"""Copies of the weights inside a checkpoint, as EMA, SWA and the best model so far: every tensor
takes the way of the weight that it copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ckmigrate.errors import MigrationError
from ckmigrate.expr import sources
from ckmigrate.formats.state_dict import rewritten
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of
from ckmigrate.spec import TensorSpec
from ckmigrate.training.carried import Carried, CarriedNode, Labels, Summary
from ckmigrate.training.copy_names import Group, NotCarried, read_groups
from ckmigrate.training.copy_parts import Memory, Moved, Part, follow_group
from ckmigrate.training.param_order import Parameter, Slot, names_by_order

__all__ = ["carry_copy", "carry_list"]

_OF_A_LIST: Final = "by order and shape, it is not certain which parameter each of them is"


def carry_copy(node: object, path: Path, moved: Moved, labels: Labels, memory: Memory) -> Carried:
    """The copy at a path, after the migration.

    NotCarried where some of it cannot follow with certainty; MigrationError CKM564 as `follow`.
    """
    parts = [
        follow_group(group, path, moved, labels, memory) for group in read_groups(node, moved.old)
    ]

    def build(made: Mapping[str, Tensor]) -> object:
        found = node
        for part in parts:
            new = [(name, made[label]) for name, label in part.labels.items()]
            found = rewritten(found, replace(part.rewrite, new=new))
        return found

    summary, verify = _summary(parts, moved), _verifier(node, parts)
    return _carried(CarriedNode(path, "copy", build, summary, verify), parts)


def carry_list(
    node: Sequence[object], path: Path, moved: Moved, labels: Labels, memory: Memory
) -> Carried:
    """The same for a list of copies of the parameters, in the order in which the model has them.

    NotCarried also where it is not certain which tensor is which parameter.
    """
    tensors = [part for part in node if isinstance(part, Tensor)]
    names = _names_in(tensors, path, moved)
    part = follow_group(
        Group("", dict(zip(names, tensors, strict=True)), of_parameters=True),
        path,
        moved,
        labels,
        memory,
    )
    order = [name for name in moved.parameters or () if name in part.new]
    if len(order) < len(part.new) or len(tensors) < len(node):
        raise NotCarried("not everything in it is a copy of a parameter")
    specs = [part.new[name].spec for name in order]

    def build(made: Mapping[str, Tensor]) -> object:
        found = [made[part.labels[name]] for name in order]
        return tuple(found) if isinstance(node, tuple) else found

    def verify(found: object) -> tuple[str, ...]:
        read = [_spec(one) for one in found] if isinstance(found, list | tuple) else []
        return () if read == specs else (f"it has not the {len(specs)} tensors that were planned",)

    return _carried(CarriedNode(path, "copy", build, _summary([part], moved), verify), [part])


def _names_in(tensors: Sequence[Tensor], path: Path, moved: Moved) -> tuple[str, ...]:
    """Which parameter each tensor of a list copies."""
    if moved.parameters is None:
        raise NotCarried("its tensors have no names, and no model tells the order of parameters")
    place = ".".join(map(str, path))
    slots = [Slot(0, f"{place}.{i}", tensor.spec.shape) for i, tensor in enumerate(tensors)]
    shapes = {name: moved.old[name].spec.shape for name in moved.order or ()}
    known = [Parameter(name, shape) for name, shape in shapes.items()]
    try:
        return names_by_order(slots, None if moved.order is None else known)
    except MigrationError as error:
        shown = "".join(f" ({line})" for line in error.details[:1])
        raise NotCarried(f"its tensors have no names: {_OF_A_LIST}{shown}") from error


def _carried(node: CarriedNode, parts: Sequence[Part]) -> Carried:
    return Carried(
        (node,),
        {part.labels[name]: expr for part in parts for name, expr in part.new.items()},
        {label: tensor for part in parts for label, tensor in part.old.tensors.items()},
        tuple(check for part in parts for check in part.old.checks),
        tuple(group for part in parts for group in part.ties),
    )


def _summary(parts: Iterable[Part], moved: Moved) -> Summary:
    counts = dict.fromkeys(("follow", "fresh", "dropped"), 0)
    for part in parts:
        new = sum(not sources(moved.new[name]) for name in part.new)
        counts["follow"] += len(part.new) - new
        counts["fresh"] += new
        counts["dropped"] += sum(not users for users in (part.rewrite.moves or {}).values())
    words = {"follow": "as the weights", "fresh": "new", "dropped": "dropped"}
    told = ", ".join(f"{count} {words[word]}" for word, count in counts.items() if count)
    return Summary(f"copy of weights: {told}", counts=counts)


def _verifier(node: object, parts: Iterable[Part]) -> Callable[[object], tuple[str, ...]]:
    """A comparison of what was read back with what was planned."""
    wanted = {p.group.prefix + name: e.spec for p in parts for name, e in p.new.items()}
    tensors = sum(isinstance(part, Tensor) for part in (entries_of(node) or {}).values())
    beside = tensors - sum(len(part.group.tensors) for part in parts)

    def verify(found: object) -> tuple[str, ...]:
        entries = entries_of(found) or {}
        extra = [k for k, part in entries.items() if isinstance(part, Tensor) and k not in wanted]
        wrong = [name for name, spec in wanted.items() if _spec(entries.get(name)) != spec]
        lines = [f"'{name}' is {_spec(entries.get(name))}, not {wanted[name]}" for name in wrong]
        more = len(extra) - beside
        return (*lines, *([f"{more} tensors more than were planned"] if more else []))

    return verify


def _spec(node: object) -> TensorSpec | None:
    return node.spec if isinstance(node, Tensor) else None
