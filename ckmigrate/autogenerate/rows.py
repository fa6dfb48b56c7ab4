"""Calls that do the same to many entries, written once: rows of names to patterns.

A row is what one step of an operation takes and gives, such as a fused projection and its three
parts. Rows that differ in numbers, or in their last word, are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import is_number
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.fold import skeleton

__all__ = ["Reading", "Row", "alternatives_text", "patterns_of", "propose_rows"]

_LETTERS = "ijklmn"


@dataclass(frozen=True, slots=True)
class Row:
    """The names of one step."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.sources + self.targets


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that rows can mean.

    write  the call, of the patterns of the sources, those of the targets, and the rows
    """

    kind: str
    write: Callable[[tuple[str, ...], tuple[str, ...], Sequence[Row]], str]
    why: str


def propose_rows(
    board: Board,
    rows: Sequence[Row],
    reading: Reading,
    certainty: Certainty,
    others: Sequence[Reading] = (),
) -> bool:
    """Propose one call for all rows where a pattern can say it, else one for each part of them."""
    for names in patterns_of([row.names for row in rows]):
        cut = len(rows[0].sources)
        written = [
            _proposal(one, names[:cut], names[cut:], rows, "guess") for one in (reading, *others)
        ]
        first = written[0]
        whole = Proposal(
            first.kind,
            first.call,
            first.sources,
            first.targets,
            certainty,
            first.why,
            tuple(written[1:]),
        )
        if board.add(whole):
            return True
    parts = _parts(rows) if len(rows) > 1 else []
    made = [propose_rows(board, part, reading, certainty, others) for part in parts]
    return any(made)


def _proposal(
    reading: Reading,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    rows: Sequence[Row],
    certainty: Certainty,
) -> Proposal:
    takes = tuple(dict.fromkeys(name for row in rows for name in row.sources))
    gives = tuple(dict.fromkeys(name for row in rows for name in row.targets))
    call = reading.write(sources, targets, rows)
    return Proposal(reading.kind, call, takes, gives, certainty, reading.why)


def patterns_of(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Patterns for every column of names, with captures that all columns share; general first."""
    paths = [[tuple(name.split(".")) for name in row] for row in rows]
    if len({tuple(len(path) for path in row) for row in paths}) > 1:
        return
    columns = [list(zip(*(row[n] for row in paths), strict=True)) for n in range(len(rows[0]))]
    for is_listed in (False, True):
        keys: dict[tuple[str, ...], str] = {}
        found = [_pattern(column, keys, is_listed=is_listed) for column in columns]
        if len(keys) == len(set(keys.values())):
            yield tuple(found)
        if not keys:
            return


def _pattern(
    column: Sequence[tuple[str, ...]], keys: dict[tuple[str, ...], str], *, is_listed: bool
) -> str:
    """`keys` has the capture of every run of segments that varies, over all columns."""
    segments = []
    for values in column:
        if len(set(values)) == 1:
            segments.append(values[0])
            continue
        if values not in keys:
            count = sum(text != "{p}" for text in keys.values())
            is_word = not all(map(is_number, values)) and "{p}" not in keys.values()
            plain = "{p}" if is_word else f"{{{_LETTERS[min(count, 5)]}}}"
            keys[values] = f"{{{','.join(dict.fromkeys(values))}}}" if is_listed else plain
        segments.append(keys[values])
    return ".".join(segments)


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    keys: tuple[Callable[[Row], Hashable], ...] = (
        lambda row: tuple(map(skeleton, row.names)),
        lambda row: tuple(name.rpartition(".")[0] for name in row.names),
        lambda row: row.names,
    )
    for key in keys:
        groups: dict[Hashable, list[Row]] = {}
        for row in rows:
            groups.setdefault(key(row), []).append(row)
        if len(groups) > 1:
            return list(groups.values())
    return []


def alternatives_text(patterns: Sequence[str]) -> str:
    """Member patterns as one pattern in quotes where they differ in one word, else as a list."""
    paths = [pattern.split(".") for pattern in patterns]
    if len({len(path) for path in paths}) == 1:
        differ = [n for n, words in enumerate(zip(*paths, strict=True)) if len(set(words)) > 1]
        words = [path[differ[0]] for path in paths] if len(differ) == 1 else []
        if words and len(set(words)) == len(words) and all(map(_is_word, words)):
            path = list(paths[0])
            path[differ[0]] = f"{{{','.join(words)}}}"
            return quoted(".".join(path))
    return f"[{', '.join(map(quoted, patterns))}]"


def _is_word(text: str) -> bool:
    return text.replace("_", "").replace("-", "").isalnum()
