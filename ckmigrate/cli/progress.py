"""A bar with bytes and time left, for long writes on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckmigrate.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["LONG", "shown_progress"]

LONG = 64 << 20
"""Bytes; shorter work is done before a bar could be read."""


@contextmanager
def shown_progress(
    session: Session, name: str
) -> Iterator[tuple[Callable[[int], None], Callable[[str, int], None]]]:
    """The two callbacks of `carry_out`: bytes written, and the phase that begins."""
    bars: list[Progress] = []
    # Where the cursor cannot move, a bar would be a line of nothing each time.
    is_dumb = os.environ.get("TERM") == "dumb"
    visible = sys.stderr is not None and sys.stderr.isatty() and not is_dumb
    is_wanted = visible and not session.quiet and not session.json

    def phase(kind: str, total: int) -> None:
        if is_wanted and kind == "write" and total > LONG and not bars:
            bars.append(_started(name, total))
        elif bars and kind == "verify":
            bars[0].update(bars[0].task_ids[0], name=f"verifying {name}")

    def progress(done: int) -> None:
        if bars:
            bars[0].advance(bars[0].task_ids[0], done)

    try:
        yield progress, phase
    finally:
        if bars:
            bars[0].stop()


def _started(name: str, total: int) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        # Names come from files: nothing in them may be taken for markup.
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task("", total=total, name=f"writing {name}")
    bar.start()
    return bar
