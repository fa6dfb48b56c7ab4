"""The other end of `processes`: one checkpoint after the other, until the socket is closed."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from ckmigrate.cli.batch import Job, Work, attempt
from ckmigrate.cli.collect import Found
from ckmigrate.cli.processes import SIGNALS, ignore_signals
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.run import committed_by
from ckmigrate.cli.session import Answer, Session
from ckmigrate.execute.signals import signals_held

__all__ = ["main"]

_EVERY = 0.1
"""Seconds between two messages about bytes."""


def main(fd: int) -> None:
    """Serve the socket `fd`. The signals that stop a run are blocked until here."""
    # A reader that went away means that whoever started this process did: nothing is left to say.
    with suppress(KeyboardInterrupt, OSError, EOFError):
        for number in SIGNALS:
            signal.signal(number, _stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.set_inheritable(fd, False)  # Its end is heard when this process ends, and no other.
        connection: Connection[Any, Any] = Connection(fd)
        sys.stderr = _Relay(connection)
        with redirect_stdout(sys.stderr):
            _serve(connection)


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind once: a second signal must not disturb the cleaning up after the first."""
    ignore_signals()
    raise KeyboardInterrupt


def _serve(connection: Connection[Any, Any]) -> None:
    job, session, shows = connection.recv()
    work = _Once(job, session)
    while True:
        found = connection.recv()
        told, begun = _Told(connection, shows), time.monotonic()
        try:
            answer = attempt(session, found, work, Watch(told.progress, told.phase))
        except KeyboardInterrupt as interrupt:
            _send(connection, "stopped", committed_by(interrupt), time.monotonic() - begun)
            return
        _send(connection, "done", answer, time.monotonic() - begun)


def _send(connection: Connection[Any, Any], *message: object) -> None:
    """One message, whole: half of one would spoil those after it."""
    with signals_held():
        connection.send(message)


@dataclass(slots=True)
class _Once:
    """Work whose preparation is done for the first checkpoint."""

    job: Job
    session: Session
    work: Work | None = None

    def __call__(self, found: Found, watch: Watch) -> Answer:
        if self.work is None:
            self.work = self.job.begin(self.session)
        return self.work(found, watch)


@dataclass(slots=True)
class _Told:
    """What a bar elsewhere shows; bytes are saved up, for there may be thousands of writes."""

    connection: Connection[Any, Any]
    shows: bool
    bytes: int = 0
    last: float = field(default_factory=time.monotonic)

    def progress(self, done: int) -> None:
        self.bytes += done
        if self.shows and time.monotonic() - self.last > _EVERY:
            self._flush()

    def phase(self, kind: str, total: int) -> None:
        if self.shows:
            self._flush()
            _send(self.connection, "phase", kind, total)

    def _flush(self) -> None:
        _send(self.connection, "progress", self.bytes)
        self.bytes, self.last = 0, time.monotonic()


class _Relay(io.TextIOBase):
    """A stderr whose whole lines are written by the process that has the terminal."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Send everything up to the last line break."""
        whole, newline, self._text = (self._text + text).rpartition("\n")
        if newline:
            _send(self._connection, "text", whole)
        return len(text)
