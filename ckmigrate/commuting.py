"""Whether branches may be joined as they are: does their order matter?

After a merge a checkpoint goes through the scripts that it lacks. One that stands on a branch goes
through that branch first, one from before the fork through both in the order of the history. All of
these ways are traced on every base snapshot, and must end in the same expressions: otherwise two
checkpoints of one revision would mean different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ckmigrate.compile import State, Trace, start, trace
from ckmigrate.errors import CkmigrateError
from ckmigrate.expr import Expr
from ckmigrate.fold import fold
from ckmigrate.identify import Replay
from ckmigrate.meta import MetaEdit, is_unknown_metadata
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.squashed import shortened
from ckmigrate.same_expr import same_expr
from ckmigrate.snapshot import spec_text

__all__ = ["Way", "disagreements", "ways"]


@dataclass(frozen=True, slots=True)
class Way:
    """What a checkpoint at `start` goes through from the fork on; None is the fork itself."""

    start: str | None
    scripts: tuple[Script, ...]


def ways(history: History, heads: Sequence[str]) -> tuple[Way, ...]:
    """Every order in which a merge of the heads would run what lies after their fork, each once;
    the first is that of a checkpoint from before the fork."""
    shared = {script.id for script in history.shared(heads)}
    every = frozenset(heads).union(*map(history.ancestors, heads))
    region = [script for script in history.order if script.id in every - shared]
    found: dict[tuple[Script, ...], str | None] = {}
    for first in (None, *(script.id for script in region)):
        behind = frozenset() if first is None else history.ancestors(first) | {first}
        done = tuple(script for script in region if script.id in behind)
        left = tuple(script for script in region if script.id not in behind)
        short = shortened(left, history.squashed, history.scripts)
        for order in ((*done, *left), (*done, *short)):
            found.setdefault(order, first)
    return tuple(Way(first, order) for order, first in found.items())


def disagreements(
    history: History, heads: Sequence[str], known: Mapping[str, Replay]
) -> tuple[str, ...]:
    """Why the heads cannot be joined by an empty merge, in lines; none where they can.

    Nothing is proved without a snapshot, so `known` must hold one.
    """
    every = ways(history, heads)
    found = list(_shared_edits(history, heads, known))
    for model, replay in known.items():
        found += [f"{line} (snapshot '{model}')" for line in _on(history, heads, every, replay)]
    return tuple(dict.fromkeys(found))


def _on(
    history: History, heads: Sequence[str], every: Sequence[Way], replay: Replay
) -> Iterator[str]:
    base = replay.base
    reached = _traced(history.shared(heads), start(base.schema, ties=base.ties), replay.params)
    if isinstance(reached, str):
        yield reached
        return
    fork = start(reached.end.schema, ties=reached.end.ties)
    ends = {way: _traced(way.scripts, fork, replay.params) for way in every}
    first, *others = every
    for way in every:
        if isinstance(end := ends[way], str):
            yield f"{_named(history, way, heads)}: {end}"
    for way in others:
        one, other = ends[first], ends[way]
        if isinstance(one, Trace) and isinstance(other, Trace):
            names = _named(history, first, heads), _named(history, way, heads)
            yield from _differences(one.end, other.end, *names)


def _traced(scripts: Sequence[Script], state: State, params: Mapping[str, object]) -> Trace | str:
    """The trace, or why there is none."""
    try:
        return trace(scripts, state, params)
    except CkmigrateError as error:
        why = "it reads metadata, which no snapshot has" if is_unknown_metadata(error) else ""
        return f"{error.where}: {why or error.what}"


def _named(history: History, way: Way, heads: Sequence[str]) -> str:
    """A way by the checkpoint that takes it."""
    if way.start is not None:
        return f"from {history.label(way.start)}"
    shared = history.shared(heads)
    return f"from {shared[-1].label if shared else 'base'}"


def _differences(one: State, other: State, here: str, there: str) -> Iterator[str]:
    lines: dict[str, str] = {}
    for name in dict.fromkeys((*one.entries, *other.entries)):
        told = _difference(one.entries.get(name), other.entries.get(name), here, there)
        if told is not None:
            lines[name] = told
    for line in fold(lines):
        yield f"{line.pattern}: {line.value}"
    tied, apart = (frozenset(map(frozenset, state.ties)) for state in (one, other))
    for group in tied ^ apart:
        where = here if group in tied else there
        yield f"{' = '.join(sorted(group))}: tied only {where}"


def _difference(one: Expr | None, other: Expr | None, here: str, there: str) -> str | None:
    if one is None or other is None:
        return f"it is there only {here if other is None else there}"
    if one.spec != other.spec:
        return f"{spec_text(one.spec)} {here}, {spec_text(other.spec)} {there}"
    return None if same_expr(one, other) else f"other values {here} than {there}"


def _shared_edits(
    history: History, heads: Sequence[str], known: Mapping[str, Replay]
) -> Iterator[str]:
    """Metadata that scripts of two branches edit: no snapshot can prove what comes of that."""
    region = {script.id: script for way in ways(history, heads)[:1] for script in way.scripts}
    for one, other in combinations(region, 2):
        if one in history.ancestors(other) or other in history.ancestors(one):
            continue
        for replay in known.values():
            for left in _edits(replay, one):
                for right in _edits(replay, other):
                    if _touch(left, right):
                        yield (
                            f"both {history.label(one)} and {history.label(other)} edit metadata "
                            f"'{right.path}'"
                        )


def _edits(replay: Replay, revision: str) -> list[MetaEdit]:
    traced = replay.traced(revision)
    return [record.edit for record in traced.records if record.edit] if traced else []


def _touch(one: MetaEdit, other: MetaEdit) -> bool:
    """Whether the order of two edits may matter."""
    if one.kind == other.kind == "set" and (one.path, one.value) == (other.path, other.value):
        return False
    return any(
        left == right or left.startswith(f"{right}.") or right.startswith(f"{left}.")
        for left in (one.path, one.new)
        for right in (other.path, other.new)
        if left and right
    )
