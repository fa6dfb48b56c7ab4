"""One bar for all checkpoints of a command: files, bytes, speed and time left, on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckmigrate.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["LONG", "Board", "Watch", "shown_progress"]

LONG = 64 << 20
"""Bytes; less is written before a bar could be read."""

_PATIENCE = 1.0
"""Seconds after which many small files get a bar too."""

_NAMES = 2

_COUNTED = ("write", "read")
"""Phases whose bytes are told."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What work on one checkpoint tells: the bytes of each write, and each phase with its bytes."""

    progress: Callable[[int], None] = lambda done: None
    phase: Callable[[str, int], None] = lambda kind, total: None


@dataclass(slots=True)
class Board:
    """What is known of the work as a whole.

    names   of the results, by number
    sizes   bytes of the sources, until the plan knows those of the result
    at      the phase of each checkpoint that is being worked on, and the bytes that are written
    """

    session: Session
    names: Sequence[str]
    sizes: list[int]
    finished: int = 0
    done: int = 0
    at: dict[int, tuple[str, int]] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    bar: Progress | None = None

    def watch(self, number: int) -> Watch:
        """The callbacks for one checkpoint."""
        return Watch(
            lambda done: self.progress(number, done),
            lambda kind, total: self.phase(number, kind, total),
        )

    def phase(self, number: int, kind: str, total: int) -> None:
        """A phase of one checkpoint begins."""
        written = self.at.get(number, ("", 0))[1]
        self.at[number] = (kind, written)
        if kind in _COUNTED:
            self.sizes[number] = total
        self._show()
        if self.bar is not None:
            # Short work would be over before the bar looks again by itself.
            self.bar.refresh()

    def progress(self, number: int, done: int) -> None:
        """Bytes of one checkpoint were written."""
        kind, written = self.at.get(number, ("write", 0))
        self.at[number] = (kind, written + done)
        self._show()

    def end(self, number: int) -> None:
        """One checkpoint needs nothing more, however it ended."""
        self.at.pop(number, None)
        self.finished += 1
        self.done += self.sizes[number]
        self._show()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while something else is written to the terminal."""
        if self.bar is None:
            yield
            return
        self.bar.stop()
        try:
            yield
        finally:
            self.bar.start()

    def close(self) -> None:
        """Take the bar away for good."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _show(self) -> None:
        if self.bar is None:
            if not self._is_long():
                return
            self.bar = _started(self._text(), several=len(self.names) > 1)
        written = sum(min(done, self.sizes[number]) for number, (_, done) in self.at.items())
        self.bar.update(
            self.bar.task_ids[0],
            completed=self.done + written,
            total=sum(self.sizes),
            name=self._text(),
        )

    def _is_long(self) -> bool:
        """Whether a bar is worth its place. One checkpoint is judged by what it writes."""
        if len(self.names) == 1:
            kind, _ = self.at.get(0, ("", 0))
            return kind in _COUNTED and self.sizes[0] > LONG
        more = self.finished < len(self.names)
        late = time.monotonic() - self.begun > _PATIENCE
        return more and (sum(self.sizes) > LONG or late)

    def _text(self) -> str:
        words = {"write": "writing", "verify": "verifying"}
        busy = sorted(self.at.items())
        shown = [f"{words.get(kind, 'reading')} {self.names[n]}" for n, (kind, _) in busy[:_NAMES]]
        shown += [f"+{len(busy) - _NAMES}"] if len(busy) > _NAMES else []
        count = [f"{self.finished}/{len(self.names)} files"] if len(self.names) > 1 else []
        return "  ".join([*count, ", ".join(shown)])


@contextmanager
def shown_progress(
    session: Session, names: Sequence[str], sizes: Callable[[], Sequence[int]]
) -> Iterator[Board | None]:
    """The bar, where there is a terminal for it; `sizes` is asked only then."""
    if not _is_wanted(session):
        yield None
        return
    board = Board(session, names, list(sizes()))
    session.aside, before = board.aside, session.aside
    try:
        yield board
    finally:
        session.aside = before
        board.close()


def _is_wanted(session: Session) -> bool:
    # Where the cursor cannot move, a bar would be a line of nothing each time.
    is_dumb = os.environ.get("TERM") == "dumb"
    visible = sys.stderr is not None and sys.stderr.isatty() and not is_dumb
    return visible and not session.quiet and session.is_text


def _started(text: str, *, several: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    narrow = Column(no_wrap=True, overflow="ellipsis")
    bar = Progress(
        # Names come from files: nothing in them may be taken for markup.
        TextColumn("{task.fields[name]}", markup=False, table_column=narrow),
        BarColumn(bar_width=10 if several else 20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task("", total=None, name=text)
    bar.start()
    return bar
