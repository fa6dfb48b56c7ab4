"""Where the values of a checkpoint go: which of them a script loses or repeats without saying so.

An operation says what it does with values: `drop` and `slice` lose some, `copy` and `gather` repeat
some. Expressions of a script's own (`ck["q"] = ck.take("qkv")[:64]`) say nothing, so every element
that was taken or overwritten must be in the result, and only once among what was assigned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckmigrate.compile import State, TracedScript
from ckmigrate.expr import Expr
from ckmigrate.recorder import Recorder
from ckmigrate.synthetic import Numbering, element_numbers

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Unsaid", "unsaid"]

_LOSES = frozenset({"drop", "slice", "resize", "gather", "merge_equal", "compute"})
_OWN = frozenset({"assign", "take"})


@dataclass(frozen=True, slots=True)
class Unsaid:
    """What a script does to values without saying so: lines such as "'a.weight': 8 of 12 values".

    The names are those of the checkpoint that the count began with.
    """

    lost: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()


def unsaid(traced: TracedScript, counted: Numbering) -> Unsaid:
    """The values that the script's own expressions lose, and those that they repeat."""
    if not any(record.operation in _OWN for record in traced.records):
        return Unsaid()
    before, after = (_counts(_tensors(s), counted) for s in (traced.before, traced.after))
    own, named, assigned = _by_record(traced, counted)
    lost = (before > 0) & (after == 0) & (own > 0) & (named == 0)
    repeated = (assigned > 1) & (after > before)
    return Unsaid(_lines(lost, before > 0, counted), _lines(repeated, before > 0, counted))


def _by_record(traced: TracedScript, counted: Numbering) -> tuple[Array, Array, Array]:
    """How often each element was taken or overwritten, was in what an operation may lose, and
    stands in what was assigned."""
    before = traced.before
    recorder = Recorder(before.entries, before.ties, before.meta, script="", path="")
    own: list[Expr] = []
    named: list[Expr] = []
    assigned: dict[str, Expr] = {}
    for record in traced.records:
        sources = [recorder.entries[name] for step in record.steps for name in step.sources]
        own += sources if record.operation in _OWN else []
        named += sources if record.operation in _LOSES else []
        recorder.apply(record.steps)
        if record.operation == "assign":
            targets = [name for step in record.steps for name in step.targets]
            assigned |= {name: recorder.entries[name] for name in targets}
    return _counts(own, counted), _counts(named, counted), _counts(assigned.values(), counted)


def _tensors(state: State) -> Iterable[Expr]:
    """The entries of a state, a tied group counting as one."""
    seconds = {name for group in state.ties for name in group[1:]}
    return [expr for name, expr in state.entries.items() if name not in seconds]


def _counts(expressions: Iterable[Expr], counted: Numbering) -> Array:
    """How often each element stands in these tensors."""
    import numpy as np

    total = np.zeros(counted.total, dtype=np.int64)
    for expr, times in Counter(expressions).items():
        numbers = element_numbers(expr, counted, [], through_casts=True).reshape(-1)
        np.add.at(total, numbers[numbers >= 0], times)
    return total


def _lines(found: Array, there: Array, counted: Numbering) -> tuple[str, ...]:
    sizes = _sizes(counted)
    return tuple(
        f"'{name}': {count} of {int(there[first : first + size].sum())} values"
        for name, (first, size) in sizes.items()
        if (count := int(found[first : first + size].sum()))
    )


def _sizes(counted: Numbering) -> Mapping[str, tuple[int, int]]:
    ordered = sorted(counted.first, key=lambda name: counted.first[name])
    ends = [*(counted.first[name] for name in ordered[1:]), counted.total]
    return {n: (counted.first[n], e - counted.first[n]) for n, e in zip(ordered, ends, strict=True)}
