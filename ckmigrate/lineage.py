"""The life of an entry: through which operations it came to be what it is, and what became of it.

Read off the records of a trace, each of which knows the names that it takes and gives. A life is a
line of events as long as one entry is made of one; where it is made of several it branches.

    head.weight ← 0006 reshape ← 0002 rename ← classifier.weight
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ckmigrate.compile import Trace
from ckmigrate.expr import sources
from ckmigrate.operations.assign import Assign
from ckmigrate.operations.copy import Retie
from ckmigrate.operations.init import Drop
from ckmigrate.operations.rename import Renames
from ckmigrate.recorder import Record
from ckmigrate.revisions.script import Script
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Step

__all__ = ["Event", "Life", "Lineage"]

End = Literal["start", "end", "new", "gone", "several"]


@dataclass(frozen=True, slots=True)
class Event:
    """One operation on an entry; `name` and `spec` are the entry on the other side of it: before it
    when one looks back, after it when one looks forward. None where it has no one other side."""

    script: Script
    line: int | None
    operation: str
    arguments: str
    name: str | None
    spec: TensorSpec | None


@dataclass(frozen=True, slots=True)
class Life:
    """An entry, what happened to it in the order in which one looks, and where that ends.

    end       "start": it was there before the first script; "end": it is there after the last;
              "new": the last event made it of nothing; "gone": the last event removed it;
              "several": the last event made it of the entries of `branches`, or made those of it
    """

    name: str
    spec: TensorSpec
    events: tuple[Event, ...]
    end: End
    branches: tuple[Life, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """The records of a trace, to be asked about names."""

    trace: Trace

    @cached_property
    def _records(self) -> tuple[tuple[Script, Record], ...]:
        scripts = self.trace.scripts
        return tuple((s.script, r) for s in scripts for r in s.records if r.edit is None)

    @cached_property
    def _made(self) -> tuple[Mapping[str, Step], ...]:
        """For each record, by name that it gives, the step that does."""
        return tuple(_by_target(record.steps) for _, record in self._records)

    @cached_property
    def _taken(self) -> tuple[Mapping[str, Step], ...]:
        return tuple(_by_source(record.steps) for _, record in self._records)

    def back(self, name: str, until: int | None = None) -> Life:
        """Where the entry that has this name at the end comes from."""
        place = len(self._records) if until is None else until
        spec = self._spec(name, place)
        events: list[Event] = []
        here = name
        while place:
            place -= 1
            step = self._made[place].get(here)
            if step is None:
                continue
            parents = _parents(step, here)
            if isinstance(step.kernel, Assign):
                return self._assigned(name, spec, events, place, step)
            if len(parents) != 1:
                events.append(self._event(place, None))
                branches = tuple(self.back(parent, place) for parent in parents)
                return Life(name, spec, tuple(events), "several" if parents else "new", branches)
            here = parents[0]
            events.append(self._event(place, here, self._spec(here, place)))
        return Life(name, spec, tuple(events), "start")

    def _assigned(
        self, name: str, spec: TensorSpec, events: list[Event], place: int, step: Step
    ) -> Life:
        """An expression of a script knows only the entries that the trace began with."""
        assert isinstance(step.kernel, Assign)
        begun = self.trace.start.entries
        read = [origin for origin in sources(step.kernel.value) if origin in begun]
        events.append(self._event(place, None))
        branches = tuple(Life(one, begun[one].spec, (), "start") for one in read)
        return Life(name, spec, tuple(events), "several" if read else "new", branches)

    def forward(self, name: str, since: int = 0, origin: str | None = None) -> Life:
        """What becomes of the entry that has this name before the first script."""
        origin = name if origin is None else origin
        spec, here, events = self._spec(name, since), name, []
        for place in range(since, len(self._records)):
            targets = self._targets(place, here, origin)
            if targets is None:
                continue
            if len(targets) == 1:
                (here,) = targets
                events.append(self._event(place, here, self._spec(here, place + 1)))
                continue
            events.append(self._event(place, None))
            branches = tuple(self.forward(one, place + 1, origin) for one in targets)
            return Life(name, spec, tuple(events), "several" if targets else "gone", branches)
        return Life(name, spec, tuple(events), "end")

    def _targets(self, place: int, name: str, origin: str) -> tuple[str, ...] | None:
        """The names under which an entry goes on after a record; None where it stays."""
        step = self._taken[place].get(name)
        read = [
            one.targets[0]
            for one in self._made[place].values()
            if isinstance(one.kernel, Assign) and origin in sources(one.kernel.value)
        ]
        if step is None:
            return (name, *read) if read else None
        if isinstance(step.kernel, Retie):
            return (name,)
        if isinstance(step.kernel, Drop) and name in step.targets:
            return None
        if not step.targets and (later := self._uses(place, origin)):
            return later
        return tuple(dict.fromkeys((*step.targets, *read)))

    def _uses(self, place: int, origin: str) -> tuple[str, ...]:
        """What a script assigns later on of an entry that it took."""
        script = self._records[place][0]
        return tuple(
            step.targets[0]
            for (other, _), made in zip(self._records[place:], self._made[place:], strict=True)
            for step in made.values()
            if other is script
            and isinstance(step.kernel, Assign)
            and origin in sources(step.kernel.value)
        )

    def _event(self, place: int, name: str | None, spec: TensorSpec | None = None) -> Event:
        script, record = self._records[place]
        return Event(script, record.line, record.operation, record.arguments, name, spec)

    def _spec(self, name: str, place: int) -> TensorSpec:
        """The spec before the record at a place."""
        if place < len(self._records) and name in self._records[place][1].before:
            return self._records[place][1].before[name]
        return self.trace.end.entries[name].spec


def _by_target(steps: Iterable[Step]) -> dict[str, Step]:
    if isinstance(steps, Renames):
        return {step.targets[0]: step for step in steps}
    return {target: step for step in steps for target in step.targets}


def _by_source(steps: Iterable[Step]) -> dict[str, Step]:
    return {source: step for step in steps for source in step.sources}


def _parents(step: Step, name: str) -> Sequence[str]:
    """The entries that an entry is made of."""
    if isinstance(step.kernel, Retie | Drop):
        return (name,)
    return step.sources
