"""One effect on the symbolic checkpoint: some entries become some others, through a kernel.

Every operation of a script is resolved into steps with concrete names and sizes. A kernel has one
truth, `apply` on expressions; schema, plan, inverse and execution are all read off its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr
from ckmigrate.spec import TensorSpec

__all__ = ["Check", "Irreversible", "Kernel", "Schemas", "Step", "in_place", "refuse"]

Schemas = Mapping[str, TensorSpec]


class Irreversible(Exception):  # noqa: N818 - a verdict that callers collect, not an error by itself
    """Raised by a kernel that has no inverse; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Check:
    """Two expressions whose bytes must be equal, or the migration is refused before the commit."""

    left: Expr
    right: Expr
    claim: str


class Kernel(Protocol):
    """The effect of a step."""

    def apply(self, inputs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """One expression per target, from one per source."""
        ...

    def checks(self, inputs: tuple[Expr, ...]) -> tuple[Check, ...]:
        """Claims about values that must hold before the result may be written."""
        ...

    def inverse(self, step: Step, inputs: tuple[TensorSpec, ...]) -> Step:
        """The step back, given the specs of the sources before; raises Irreversible."""
        ...

    def describe(self) -> str:
        """A few words for the plan, such as "dim 0 into 8 + 2 + 2"."""
        ...


class Step(NamedTuple):
    """`sources` disappear, `targets` appear; a name in both stays.

    A named tuple because a chain of scripts makes hundreds of thousands of them.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    kernel: Kernel

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Step:
        return self.kernel.inverse(self, inputs)

    def back(self, kernel: Kernel) -> Step:
        """The step with sources and targets exchanged."""
        return Step(self.targets, self.sources, kernel)


def in_place(name: str, kernel: Kernel) -> Step:
    """A step that changes one entry and keeps its name."""
    return Step((name,), (name,), kernel)


def refuse(code: str, what: str, *, why: str, fix: str) -> MigrationError:
    """A MigrationError about an operation; the caller's script and line are added further out."""
    return MigrationError(code, what, why=why, fix=fix)


def resolve_dim(dim: int, spec: TensorSpec, name: str, *, extra: int = 0) -> int:
    """A dimension counted from the end made absolute; `extra` allows one place past the last."""
    count = spec.ndim + extra
    if not isinstance(dim, int) or isinstance(dim, bool) or not -count <= dim < count:
        raise refuse(
            "CKM520",
            f"'{name}' has no dimension {dim!r}",
            why=f"It is {spec}, so dimensions run from {-count} to {count - 1}."
            if count
            else f"It is {spec}: a scalar has no dimensions.",
            fix="Name a dimension that the tensor has.",
        )
    return dim % count
