"""The proof that one script does what a chain does: both traced, on every schema that is known.

The schemas are the base snapshots, led to where the chain begins, and variants of them that show
what a snapshot cannot: one more layer, an entry that is not there, an entry that nobody knows. A
variant that the chain itself refuses proves nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ckmigrate.compile import State, Trace, start, trace, trace_back
from ckmigrate.errors import CkmigrateError, MigrationError
from ckmigrate.fold import skeleton
from ckmigrate.identify import Replay
from ckmigrate.names import natural_key
from ckmigrate.revisions.script import Script
from ckmigrate.spec import Schema
from ckmigrate.squash.same import differences
from ckmigrate.ties import Ties

__all__ = ["Proof", "Ways", "ways_of"]

_MOST_VARIANTS = 400
_LARGEST = 4_000
"""Entries of a snapshot up to which variants are tried: each one is traced."""

Begin = tuple[str, Schema, Ties]


@dataclass(frozen=True, slots=True)
class Ways:
    """One schema, and what the chain makes of it; `back` is None where there is no way back."""

    name: str
    state: State
    up: Trace
    back: Trace | None


def ways_of(chain: Sequence[Script], begin: Begin, params: Mapping[str, object]) -> Ways:
    """What a chain does with a schema, up and back; raises what the scripts raise."""
    name, schema, ties = begin
    state = start(schema, ties=ties)
    up = trace(chain, state, params)
    return Ways(name, state, up, _back(up, params))


def _back(up: Trace, params: Mapping[str, object]) -> Trace | None:
    replay = {done.script.id: done for done in up.scripts}
    end = start(up.end.schema, ties=up.end.ties)
    try:
        return trace_back([done.script for done in reversed(up.scripts)], end, params, replay)
    except CkmigrateError:
        return None


@dataclass(frozen=True)
class Proof:
    """The chain on every schema; `replays` are the base snapshots by name."""

    chain: tuple[Script, ...]
    replays: Mapping[str, Replay]
    params: Mapping[str, object]

    @property
    def _parent(self) -> str | None:
        return self.chain[0].parents[0] if self.chain[0].parents else None

    @cached_property
    def ways(self) -> tuple[Ways, ...]:
        """The chain on each snapshot. MigrationError CKM514 where a snapshot does not reach it or
        the chain cannot be followed without a file."""
        return tuple(ways_of(self.chain, begin, self.params) for begin in self._begins())

    def _begins(self) -> Iterator[Begin]:
        for name, replay in self.replays.items():
            known = _state(replay, self.chain[0])
            if known is None:
                raise _unknown(name, replay, self.chain[0])
            yield name, *known

    @cached_property
    def variants(self) -> tuple[Ways, ...]:
        """The chain on schemas that are no snapshots, as far as it accepts them."""
        found = []
        for way in self.ways:
            if len(way.state.entries) <= _LARGEST:
                found += [w for b in _variants(way) if (w := self._accepted(b)) is not None]
        return tuple(found)

    def _accepted(self, begin: Begin) -> Ways | None:
        try:
            return ways_of(self.chain, begin, self.params)
        except CkmigrateError:
            return None

    def problems(self, squash: Script) -> tuple[str, ...]:
        """What the script does otherwise than the chain, in words; () where it is the same."""
        for way in (*self.ways, *self.variants):
            lines = self._problems(squash, way)
            if lines:
                return tuple(f"{way.name}: {line}" for line in lines)
        return ()

    def _problems(self, squash: Script, way: Ways) -> tuple[str, ...]:
        try:
            found = ways_of((squash,), (way.name, way.state.schema, way.state.ties), self.params)
        except CkmigrateError as error:
            return (f"{error.where or squash.path.name}: {error.what}",)
        lines = differences(way.up, found.up)
        if way.back is not None and found.back is None:
            lines += ("there is no way back, and the chain has one",)
        if way.back is not None and found.back is not None:
            lines += tuple(f"on the way back, {one}" for one in differences(way.back, found.back))
        return lines


def _state(replay: Replay, first: Script) -> tuple[Schema, Ties] | None:
    """What a snapshot has become before a script."""
    if not first.parents:
        return replay.base.schema, replay.base.ties
    if len(first.parents) > 1:
        way = replay.history.path_up(None, first.id, originals=True)[:-1]
        end = trace(way, start(replay.base.schema, ties=replay.base.ties), replay.params).end
        return end.schema, end.ties
    traced = replay.traced(first.parents[0])
    return None if traced is None else (traced.after.schema, traced.after.ties)


def _unknown(name: str, replay: Replay, first: Script) -> MigrationError:
    reasons = [f"{replay.history.label(rev)}: {e.what}" for rev, e in replay.failures.items()]
    return MigrationError(
        "CKM514",
        f"snapshot '{name}' cannot be led to {first.label}",
        details=tuple(reasons),
        why="Without a schema there is nothing that a proof could be made on.",
        fix="Let the scripts read parameters through ck.params; see `ckmigrate check`.",
    )


def _variants(way: Ways) -> list[Begin]:
    """Schemas like this one: deeper, with one entry less, with one that nobody knows."""
    schema, ties = way.state.schema, way.state.ties
    tied = {name for group in ties for name in group}
    found = [(f"{way.name}, deeper at {at}", s, ties) for at, s in _deeper(schema, tied)]
    found += [
        (f"{way.name} without {name}", Schema({k: v for k, v in schema.items() if k != name}), ties)
        for name in _firsts(schema)
        if name not in tied
    ]
    found += [
        (f"{way.name} with {name}", Schema({**schema, name: schema[like]}), ties)
        for name, like in _strangers(schema)
    ]
    return found[:_MOST_VARIANTS]


def _firsts(names: Iterator[str] | Schema) -> list[str]:
    """One name of each family that differs in numbers only."""
    first: dict[str, str] = {}
    for name in sorted(names, key=natural_key):
        first.setdefault(skeleton(name), name)
    return list(first.values())


def _strangers(schema: Schema) -> list[tuple[str, str]]:
    """A name beside each family of entries, with the entry that it is beside."""
    beside: dict[str, tuple[str, str]] = {}
    for name in _firsts(schema):
        parts = name.split(".")
        for depth in range(len(parts)):
            stranger = ".".join([*parts[:depth], "stranger"])
            beside.setdefault(skeleton(stranger), (stranger, name))
    return [pair for pair in beside.values() if pair[0] not in schema]


def _deeper(schema: Schema, tied: set[str]) -> list[tuple[str, Schema]]:
    """The schema with one more of each numbered thing; and with one more of all at once."""
    grown: dict[str, dict[str, str]] = {}
    for name in schema:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if part.isdigit() and name not in tied:
                list_name = ".".join(parts[:place])
                last = grown.setdefault(list_name, {})
                last[name] = part
    found = []
    for list_name, numbers in grown.items():
        top = max(numbers.values(), key=int)
        place = len(list_name.split(".")) if list_name else 0
        new = {}
        for name, number in numbers.items():
            if number == top:
                parts = name.split(".")
                parts[place] = str(int(top) + 1)
                new[".".join(parts)] = schema[name]
        found.append((f"{list_name}.{top}", Schema({**schema, **new})))
    return found
