"""The whole upgrade as data: what is printed is what is executed.

A `Plan` names every entry of the result with its expression and the work that gives its bytes, the
claims about values that are checked before the commit, and what it costs in bytes and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ckmigrate.compile import Trace
from ckmigrate.expr import Expr, Source, sources
from ckmigrate.lower import Compute, Copy, FillRange, Gather, Lowered, SourceRange, lower
from ckmigrate.spec import Schema, TensorSpec
from ckmigrate.step import Check
from ckmigrate.training.carried import NOTHING, Carried

__all__ = ["Entry", "Plan", "Totals", "make_plan"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the result; a tensor of training state goes by its label."""

    name: str
    expr: Expr
    lowered: Lowered

    @property
    def spec(self) -> TensorSpec:
        return self.expr.spec

    @property
    def is_unchanged(self) -> bool:
        """Whether it is a whole tensor of the source, under whatever name."""
        return isinstance(self.expr, Source)


@dataclass(frozen=True, slots=True)
class Totals:
    """Bytes of the result by the work that they take."""

    copied: int
    filled: int
    gathered: int
    computed: int

    @property
    def written(self) -> int:
        return self.copied + self.filled + self.gathered + self.computed


@dataclass(frozen=True, slots=True)
class Plan:
    """A chain of migrations on one checkpoint.

    trace        the scripts that run, with everything that they did
    entries      the result, in the order in which it is written
    ties         groups of result names that share one tensor
    checks       pairs of expressions whose bytes must be equal
    peak_memory  bytes that the largest step holds at once, beside the program itself
    state        the tensors of training state that follow the weights
    carried      what becomes of training state, and the old tensors that it is made of
    """

    trace: Trace
    entries: tuple[Entry, ...]
    ties: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]
    peak_memory: int
    state: tuple[Entry, ...] = ()
    carried: Carried = NOTHING

    @property
    def tensors(self) -> tuple[Entry, ...]:
        """Everything that is written: the weights, and the training state that follows them."""
        return self.entries + self.state

    @property
    def owners(self) -> dict[str, str]:
        """The first of all names and labels of one tensor, by each of them."""
        found: dict[str, str] = {}
        for group in self.ties + self.carried.ties:
            known = dict.fromkeys(found.get(name, name) for name in group)
            owner = next(iter(known))
            joined = {name for name, old in found.items() if old in known} if len(known) > 1 else ()
            found |= dict.fromkeys((*joined, *group), owner)
        return found

    @property
    def schema(self) -> Schema:
        return Schema((entry.name, entry.spec) for entry in self.entries)

    @property
    def needs_torch(self) -> bool:
        return any(isinstance(e.lowered, Compute) and e.lowered.torch for e in self.tensors)

    @property
    def is_identity(self) -> bool:
        """Whether every weight keeps its name and bytes."""
        return self.trace.is_identity

    @property
    def totals(self) -> Totals:
        copied = filled = gathered = computed = 0
        for entry in (*self.entries, *self._own_state):
            match entry.lowered:
                case Copy():
                    for item in entry.lowered.ranges:
                        copied += item.nbytes if isinstance(item, SourceRange) else 0
                        filled += item.nbytes if isinstance(item, FillRange) else 0
                case Gather():
                    gathered += entry.spec.nbytes
                case Compute():
                    computed += entry.spec.nbytes
        return Totals(copied, filled, gathered, computed)

    @property
    def _own_state(self) -> Iterator[Entry]:
        """Training state without second labels and without what is a weight."""
        owners = self.owners
        return (e for e in self.state if owners.get(e.name, e.name) == e.name)

    @property
    def moves(self) -> dict[str, list[str]]:
        """Old name → the names of the result that its values went to."""
        aliases = {
            name: expr.name
            for name, expr in self.trace.start.entries.items()
            if isinstance(expr, Source)
        }
        users: dict[str, list[str]] = {}
        for entry in self.entries:
            for name in sources(entry.expr):
                users.setdefault(name, []).append(entry.name)
        return {name: users.get(source, []) for name, source in aliases.items()}


def make_plan(
    trace: Trace,
    *,
    is_plain: Callable[[str], bool],
    peak: Callable[[Entry], int],
    extra_checks: tuple[Check, ...] = (),
    carried: Carried = NOTHING,
    order: Iterable[str] = (),
) -> Plan:
    """Lower every entry at the end of a trace, and the training state that is carried.

    order names those entries that come first, as they are to be written.

    is_plain tells of a source whether its bytes can be copied as they stand; peak estimates the
    memory of a step. Claims that hold because both sides are one expression are left out.
    """
    end = trace.end
    first = {name: end.entries[name] for name in order if name in end.entries}
    listed = {**first, **end.entries}
    entries = tuple(Entry(name, expr, lower(expr, is_plain)) for name, expr in listed.items())
    state = tuple(Entry(n, expr, lower(expr, is_plain)) for n, expr in carried.entries.items())
    checks = tuple(c for c in trace.checks + extra_checks + carried.checks if c.left != c.right)
    for check in checks:
        for side in (check.left, check.right):
            lower(side, is_plain)  # refuses now what could not be compared later
    most = max(map(peak, entries + state), default=0)
    return Plan(trace, entries, end.ties, checks, most, state, carried)
