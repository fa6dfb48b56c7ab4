"""Lists of layers that grew or became shorter: where was the layer put in, which one was removed?

The names cannot tell. `blocks.{0..3}` and `blocks.{0..4}` may differ by a layer at the end, or by
one at the beginning that moved all others up; so this is always asked. Only places that leave every
other layer with the shapes that it has are offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import families, is_number
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.spec import TensorSpec

__all__ = ["propose_layers"]

_GONE = "not in the model any more"
_MOST_PLACES = 6
_MOST_LAYERS = 100

_Built = dict[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class _Change:
    """One list, `prefix` with its dot, that has `count` layers more or fewer.

    old and new  what each layer is built of, by number
    """

    prefix: str
    old: Mapping[int, _Built]
    new: Mapping[int, _Built]

    @property
    def count(self) -> int:
        return abs(len(self.new) - len(self.old))

    @property
    def places(self) -> list[int]:
        """Where the extra layers can stand in the longer list: the end first."""
        short, long = sorted((self.old, self.new), key=len)
        end = len(short)
        fitting = [at for at in range(end + 1) if _fits(short, long, at, self.count)]
        return sorted(fitting, key=lambda at: (at != end, at))[:_MOST_PLACES]

    def names(self, side: Mapping[int, _Built], start: int, stop: int) -> list[str]:
        return [f"{self.prefix}{n}.{rest}" for n in range(start, stop) for rest in side[n]]


def propose_layers(board: Board, fresh: Fresh) -> None:
    """A question for every list whose length changed and whose layers are otherwise the same."""
    for change in _changes(board):
        make = _added if len(change.new) > len(change.old) else _removed
        readings = [make(change, at, fresh) for at in change.places if _may_go(board, change, at)]
        if readings:
            first, *others = readings
            why = f"{first.why}; equal layers do not say which" if others else first.why
            names = first.sources, first.targets
            board.add(Proposal(first.kind, first.call, *names, "guess", why, tuple(others)))


def _may_go(board: Board, change: _Change, at: int) -> bool:
    """Whether nothing is dropped that somebody renamed: its values are wanted."""
    is_shorter = len(change.new) < len(change.old)
    gone = change.names(change.old, at, at + change.count) if is_shorter else []
    return board.wished.isdisjoint(gone)


def _changes(board: Board) -> Iterator[_Change]:
    """Lists of both sides that count from 0 without a gap and have other lengths."""
    some = {*board.vanished, *board.appeared}
    old, new = _lists(board.schema, some), _lists(board.new.schema, some)
    for prefix, layers in old.items():
        other = new.get(prefix, {})
        counted = all(sorted(side) == list(range(len(side))) for side in (layers, other))
        if other and counted and len(other) != len(layers) and len(layers) <= _MOST_LAYERS:
            yield _Change(prefix, layers, other)


def _lists(specs: Mapping[str, TensorSpec], some: set[str]) -> dict[str, dict[int, _Built]]:
    """Every list in which one of `some` names stands, by its prefix."""
    prefixes = {prefix for name in some for prefix, _, _ in _numbered(name)}
    found: dict[str, dict[int, _Built]] = {}
    for name, spec in specs.items():
        for prefix, number, rest in _numbered(name):
            if prefix in prefixes:
                found.setdefault(prefix, {}).setdefault(number, {})[rest] = spec
    return found


def _numbered(name: str) -> Iterator[tuple[str, int, str]]:
    """For every number in the name: what stands before it, itself, what follows."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if is_number(part):
            yield "".join(f"{p}." for p in parts[:at]), int(part), ".".join(parts[at + 1 :])


def _fits(short: Mapping[int, _Built], long: Mapping[int, _Built], at: int, count: int) -> bool:
    return all(layer == long[n if n < at else n + count] for n, layer in short.items())


def _added(change: _Change, at: int, fresh: Fresh) -> Proposal:
    end, count = len(change.old), change.count
    lines = [_shift(change.prefix, at, end, count)] if at < end else []
    specs = {
        name: spec
        for n in range(at, at + count)
        for name, spec in zip(
            change.names(change.new, n, n + 1), change.new[n].values(), strict=True
        )
    }
    lines += _init_lines(specs, fresh)
    sources = change.names(change.old, at, end)
    targets = change.names(change.new, at, end + count)
    where = "at the end" if at == end else f"before the old {change.prefix}{at}"
    why = f"{_layers(change, 'more')}: {where}"
    return Proposal("init", "\n".join(lines), tuple(sources), tuple(targets), "guess", why)


def _init_lines(specs: Mapping[str, TensorSpec], fresh: Fresh) -> list[str]:
    lines = []
    for family in families(specs):
        groups: dict[TensorSpec, list[str]] = {}
        for index, name in family.members.items():
            groups.setdefault(family.specs[index], []).append(name)
        lines += [line for spec, names in groups.items() for line in fresh.calls(names, spec)]
    return lines


def _removed(change: _Change, at: int, fresh: Fresh) -> Proposal:
    end, count = len(change.old), change.count
    which = _braces([str(n) for n in range(at, at + count)])
    lines = [f"ck.drop({quoted(f'{change.prefix}{which}.**')}, reason={quoted(_GONE)})"]
    if at + count < end:
        lines.append(_shift(change.prefix, at + count, end, -count))
    sources = change.names(change.old, at, end)
    targets = change.names(change.new, at, end - count)
    where = "the last" if at + count == end else f"from {change.prefix}{at} on"
    why = f"{_layers(change, 'fewer')}: {where}"
    return Proposal("drop", "\n".join(lines), tuple(sources), tuple(targets), "guess", why)


def _layers(change: _Change, more: str) -> str:
    one = "layer" if change.count == 1 else "layers"
    return f"{change.count} {one} {more} in {change.prefix.rstrip('.') or 'the list'}"


def _shift(prefix: str, start: int, stop: int, by: int) -> str:
    """The rename that moves the layers start … stop - 1, all at once."""
    old = _braces([str(n) for n in range(start, stop)])
    new = _braces([str(n + by) for n in range(start, stop)])
    return f"ck.rename({quoted(f'{prefix}{old}.**')}, {quoted(f'{prefix}{new}.**')})"


def _braces(numbers: Sequence[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{{{','.join(numbers)}}}"
