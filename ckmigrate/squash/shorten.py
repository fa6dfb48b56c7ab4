"""The same effect in fewer calls: each shortening is tried, and kept only where the proof holds.

    renames one after another   the fewest renames, by pattern, from the first names to the last
    a call that undoes another  both go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckmigrate.compile import TracedScript
from ckmigrate.errors import CkmigrateError
from ckmigrate.operations.rename import Renames
from ckmigrate.recorder import Record
from ckmigrate.squash.compose import Draft
from ckmigrate.squash.parts import Piece
from ckmigrate.squash.proof import Proof, ways_of
from ckmigrate.squash.renames import fewest_renames

__all__ = ["shorter"]

_MOST_NAMES = 5_000
"""Up to which renames are merged: finding few patterns looks at all names many times."""


def shorter(whole: Draft, proof: Proof) -> Draft:
    """The shortest draft that was found and that does the same."""
    now, is_done = whole, False
    while not is_done:
        attempts = (attempt for way in (_without_pairs, _with_fewer_renames) for attempt in way(now, proof))
        found = next((one for one in attempts if not proof.problems(one.traceable())), None)
        now, is_done = found or now, found is None
    return now


def _without_pairs(now: Draft, proof: Proof) -> Iterator[Draft]:
    """Without two calls of which the later gives back what the earlier took."""
    records = _records(now, proof)
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
    records = _records(now, proof)
    for first, last in _runs(now.pieces):
        known = [record for place in range(first, last) for record in records.get(place, ())]
        moved = _moved(known)
        if moved is None:
            continue
        origin = " and ".join(dict.fromkeys(p.origin for p in now.pieces[first:last]))
        for general in (True, False):
            calls = fewest_renames(*moved, general=general)
            if calls is not None and len(calls) < last - first:
                new = [Piece(f'    ck.rename("{a}", "{b}")\n', origin) for a, b in calls]
                yield now.with_pieces([*now.pieces[:first], *new, *now.pieces[last:]])


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


def _moved(records: Sequence[Record]) -> tuple[Mapping[str, str], Sequence[str]] | None:
    """What renames do to the names before the first of them; None where that is too much."""
    if not records or len(records[0].before) > _MOST_NAMES:
        return None
    now = {name: name for name in records[0].before}
    for record in records:
        if not isinstance(record.steps, Renames):
            return None
        step = dict(zip(record.steps.old, record.steps.new, strict=True))
        now = {first: step.get(name, name) for first, name in now.items()}
    return now, tuple(now)


def _records(now: Draft, proof: Proof) -> dict[int, list[Record]]:
    """What each piece that is one call did on the first snapshot, by its place."""
    way, script = proof.ways[0], now.traceable()
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
