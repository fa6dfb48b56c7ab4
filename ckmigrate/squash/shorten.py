"""The same effect in fewer calls: each shortening is tried, and kept only where the proof holds.

renames one after another   the fewest renames, by pattern, from the first names to the last
a call that undoes another  both go
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ckmigrate.compile import TracedScript
from ckmigrate.errors import CkmigrateError
from ckmigrate.names import pair
from ckmigrate.operations.rename import Renames
from ckmigrate.recorder import Record
from ckmigrate.squash.compose import Draft
from ckmigrate.squash.parts import Piece
from ckmigrate.squash.proof import Proof, Ways, ways_of
from ckmigrate.squash.renames import Rename, fewest_renames

__all__ = ["shorter"]

_MOST_NAMES = 5_000
"""Up to which renames are merged: finding few patterns looks at all names many times."""


def shorter(whole: Draft, proof: Proof) -> Draft:
    """The shortest draft that was found and that does the same."""
    now, is_done = whole, False
    while not is_done:
        attempts = (
            attempt for way in (_without_pairs, _with_fewer_renames) for attempt in way(now, proof)
        )
        found = next((one for one in attempts if not proof.problems(one.traceable())), None)
        now, is_done = found or now, found is None
    return now


def _without_pairs(now: Draft, proof: Proof) -> Iterator[Draft]:
    """Without two calls of which the later gives back what the earlier took."""
    records = _records(now, proof, proof.ways[0])
    ends = {place: _ends(found) for place, found in records.items()}
    for first, (taken, given) in ends.items():
        for second, (later_taken, later_given) in ends.items():
            if first < second and (taken, given) == (later_given, later_taken):
                kept = [p for i, p in enumerate(now.pieces) if i not in (first, second)]
                yield now.with_pieces(kept)


def _ends(records: Sequence[Record]) -> tuple[frozenset[str], frozenset[str]]:
    steps = [step for record in records for step in record.steps]
    return (
        frozenset(name for step in steps for name in step.sources),
        frozenset(name for step in steps for name in step.targets),
    )


def _with_fewer_renames(now: Draft, proof: Proof) -> Iterator[Draft]:
    """With the fewest renames in place of several: for the names of the snapshots, and for those of
    the variants, so that what nobody has seen goes where it went."""
    runs = [part for run in _runs(now.pieces) for part in _parts(*run)]
    known = [_records(now, proof, way) for way in (*proof.ways, *proof.variants)] if runs else []
    for first, last in runs:
        found = [[r for i in range(first, last) for r in records.get(i, ())] for records in known]
        moved = _all_moved(found)
        calls = None if moved is None else fewest_renames(moved, tuple(moved))
        if calls is not None and len(calls) < last - first:
            origin = " and ".join(dict.fromkeys(p.origin for p in now.pieces[first:last]))
            schemas = [_moved(records) or {} for records in found]
            new = [Piece(f"    {text}\n", origin) for text in _texts(calls, schemas)]
            yield now.with_pieces([*now.pieces[:first], *new, *now.pieces[last:]])


def _texts(calls: Sequence[Rename], schemas: Sequence[Iterable[str]]) -> Iterator[str]:
    """The calls as text; one that finds nothing in some schema is optional."""
    now = [list(names) for names in schemas]
    for old, new in calls:
        moved = [pair(old, new, names, optional=True) for names in now]
        now = [[m.get(n, n) for n in names] for m, names in zip(moved, now, strict=True)]
        optional = "" if all(moved) else ", optional=True"
        yield f'ck.rename("{old}", "{new}"{optional})'


def _parts(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The run and what is in it, the longest first."""
    for length in range(last - first, 1, -1):
        yield from ((place, place + length) for place in range(first, last - length + 1))


def _runs(pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """The places of two or more renames one after another."""
    first = 0
    for place in range(len(pieces) + 1):
        if place == len(pieces) or not _is_rename(pieces[place]):
            if place - first > 1:
                yield first, place
            first = place + 1


def _is_rename(piece: Piece) -> bool:
    call = piece.call
    return piece.operation == "rename" and call is not None and not call.keywords


def _all_moved(found: Sequence[Sequence[Record]]) -> Mapping[str, str] | None:
    """What renames do to the names before the first of them, on every schema; None where they do
    not agree, or there are too many."""
    together: dict[str, str] = {}
    for records in found:
        moved = _moved(records)
        if moved is None or any(together.get(old, new) != new for old, new in moved.items()):
            return None
        together.update(moved)
    return together if len(together) <= _MOST_NAMES else None


def _moved(records: Sequence[Record]) -> Mapping[str, str] | None:
    """What renames do to the names before the first of them; None where they are none."""
    if not records:
        return None
    now = {name: name for name in records[0].before}
    for record in records:
        if not isinstance(record.steps, Renames):
            return None
        step = dict(zip(record.steps.old, record.steps.new, strict=True))
        now = {first: step.get(name, name) for first, name in now.items()}
    return now


def _records(now: Draft, proof: Proof, way: Ways) -> dict[int, list[Record]]:
    """What each piece that is one call did on a schema, by its place."""
    script = now.traceable()
    try:
        found = ways_of((script,), (way.name, way.state.schema, way.state.ties), proof.params)
    except CkmigrateError:
        return {}
    return _by_place(now, found.up.scripts[0])


def _by_place(now: Draft, traced: TracedScript) -> dict[int, list[Record]]:
    line = now.text.count("\n") - now.body.count("\n") + 1
    spans, origin = [], ""
    for piece in now.pieces:
        line += piece.origin != origin
        origin = piece.origin
        spans.append((line, line + piece.text.count("\n")))
        line += piece.text.count("\n")
    return {
        place: found
        for place, (first, last) in enumerate(spans)
        if now.pieces[place].call is not None
        and (found := [r for r in traced.records if r.line is not None and first <= r.line < last])
    }
