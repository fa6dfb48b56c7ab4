"""Training state that follows the weights, as data: what is rebuilt, of which tensors.

A tensor of training state has a label, the dotted path where it stands: the sources of expressions
are labels of old tensors (or bare names of weights), the entries go by labels of new ones. No label
is the name of a weight, so that weights and state can be planned and written as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ckmigrate.expr import Expr
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path
from ckmigrate.step import Check

__all__ = ["NOTHING", "Carried", "CarriedNode", "Kind", "Labels", "Role", "Summary", "joined"]

Role = Literal["moment", "value"]
"""How a tensor of state relates to its weight. A "moment" is an average of gradients, and zero at
first; a "value" is a copy of the weight, and at first the weight itself."""

Kind = Literal["optimizer", "copy"]

_PREFIX = "training state: "


@dataclass(frozen=True, slots=True)
class Summary:
    """What becomes of one node, for a plan.

    text    behind its path: "AdamW-like, 2 groups; 148 states follow, 12 fresh, 3 dropped"
    lines   what else should be known, folded
    counts  the numbers in it, by words for JSON
    """

    text: str
    lines: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def _no_complaint(node: object) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class CarriedNode:
    """One node of the tree that is built anew.

    path    where it stands in the tree, after edits of metadata: ("optimizer_states", 0)
    build   new tensors by label → the new node; pure
    verify  the node as it was read back → what is wrong with it, a line each
    """

    path: Path
    kind: Kind
    build: Callable[[Mapping[str, Tensor]], object]
    summary: Summary
    verify: Callable[[object], Sequence[str]] = _no_complaint


@dataclass(frozen=True, slots=True)
class Carried:
    """Training state of a checkpoint after a migration.

    entries  expression of each new tensor by its label
    sources  the old tensor of each label that an expression may read
    checks   what must hold of old values
    ties     groups of new labels, and of names of weights, that are one tensor
    """

    nodes: tuple[CarriedNode, ...] = ()
    entries: Mapping[str, Expr] = field(default_factory=lambda: MappingProxyType({}))
    sources: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    checks: tuple[Check, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()


NOTHING = Carried()


def joined(parts: Iterable[Carried]) -> Carried:
    """The state of several nodes as one; their labels differ."""
    listed = tuple(parts)
    return Carried(
        tuple(node for part in listed for node in part.nodes),
        {label: expr for part in listed for label, expr in part.entries.items()},
        {label: tensor for part in listed for label, tensor in part.sources.items()},
        tuple(check for part in listed for check in part.checks),
        tuple(group for part in listed for group in part.ties),
    )


class Labels:
    """A label for every path in a tree, each for one path only.

    "training state: optimizer_states.0.state.3.exp_avg"; a stranger chose the names of the weights,
    and keys may have dots in them, so that a label gets marks where it would mean two things.
    """

    def __init__(self, weights: Iterable[str]) -> None:
        self._prefix = _PREFIX
        taken = tuple(name for name in weights if _PREFIX in name)
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix = f"new {self._prefix}"
        self._labels: dict[Path, str] = {}
        self._taken: set[str] = set()

    def of(self, path: Path) -> str:
        """The label of a path, the same whenever it is asked for."""
        if path not in self._labels:
            label = self._prefix + ".".join(map(str, path))
            while label in self._taken:
                label += "'"
            self._taken.add(label)
            self._labels[path] = label
        return self._labels[path]
