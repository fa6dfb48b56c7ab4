"""Asking the disk for what is copied next, while something else is being written.

A kernel reads ahead too, but not far: on a disk that is busy writing, every short wait for the next
piece of the source is a long one. What is in memory already costs nothing to ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ckmigrate.execute import syscalls
from ckmigrate.execute.ranges import Range
from ckmigrate.execute.source import Descriptors

__all__ = ["AHEAD", "ReadAhead"]

AHEAD: Final = 32 << 20
"""Bytes that are asked for before they are copied: one step of the copy. More makes the disk go to
and fro between what is read and what is written."""
_STEP: Final = 16 << 20
_GAP: Final = 1 << 17
"""Bytes: so much that nobody wants is read with the rest, rather than asked for around."""


class _Span(NamedTuple):
    """A part of a source file, of which `wanted` bytes are copied."""

    file: int
    start: int
    nbytes: int
    wanted: int


class ReadAhead:
    """Hears how much of `ranges` was copied, in their order, and asks for what comes then."""

    def __init__(self, ranges: Iterable[Range], sources: Descriptors) -> None:
        self._spans = _spans(ranges)
        self._sources = sources
        self._lead = 0
        self(0)

    def __call__(self, nbytes: int) -> None:
        """So many bytes more were copied."""
        self._lead -= nbytes
        while self._lead < AHEAD and (span := next(self._spans, None)) is not None:
            syscalls.read_ahead(self._sources[span.file], span.nbytes, offset=span.start)
            self._lead += span.wanted


def _spans(ranges: Iterable[Range]) -> Iterator[_Span]:
    """The ranges in parts to ask for: neighbours together, and nothing larger than a step."""
    current: _Span | None = None
    for file, start, _, nbytes in ranges:
        gap = start - current.start - current.nbytes if current and current.file == file else -1
        if current and 0 <= gap <= _GAP and current.nbytes + gap + nbytes <= _STEP:
            length = current.nbytes + gap + nbytes
            current = _Span(file, current.start, length, current.wanted + nbytes)
            continue
        if current:
            yield from _steps(current)
        current = _Span(file, start, nbytes, nbytes)
    if current:
        yield from _steps(current)


def _steps(span: _Span) -> Iterator[_Span]:
    if span.nbytes <= _STEP:
        yield span
        return
    for done in range(0, span.nbytes, _STEP):
        length = min(_STEP, span.nbytes - done)
        yield _Span(span.file, span.start + done, length, length)
