"""A batch shared by several processes, each of which does whole checkpoints.

Every worker is a fresh interpreter at the other end of a socket; nothing is forked. It gets one
checkpoint after the other, says what it does, and ends when the socket is closed, so also when this
process was killed. A worker that dies takes the checkpoint that it had with it, and no other.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from ckmigrate.cli.batch import Job, Tally, stopped_answer
from ckmigrate.cli.progress import Board
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import MigrationError
from ckmigrate.report.errors import error_data

__all__ = ["SIGNALS", "ignore_signals", "share"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PATIENCE: Final = 20.0
"""Seconds that a worker has to end by itself."""

_CODE: Final = (
    "import sys; sys.path[:] = {path!r}; from ckmigrate.cli.worker import main; main({fd})"
)
_KEPT: Final = ("config", "json", "json_lines", "quiet", "verbose", "no_input", "debug", "verb")
"""What a worker knows of the session."""


def share(tally: Tally, job: Job, board: Board | None, *, count: int, keep_going: bool) -> None:
    """Do the job for every checkpoint of the tally in `count` processes.

    A process that dies is a failure of the checkpoint that it worked on: CKM597. On Ctrl-C or
    SIGTERM every worker is stopped and waited for; what each had done by then is in the tally, and
    the interrupt passes.
    """
    batch = _Batch(tally, job, board, keep_going)
    # A signal in the middle of a message, or between making a worker and writing it down, would
    # lose one of the two; signals are heard where nothing is done but waiting.
    with _signals(signal.SIG_BLOCK):
        try:
            for _ in range(count):
                batch.start()
            while batch.workers:
                batch.listen()
        except KeyboardInterrupt:
            batch.stop()
            raise
        finally:
            batch.end()


def ignore_signals() -> None:
    """From now on the signals that stop a run do nothing.

    By a handler that does nothing: with SIG_IGN, Python complains about one that is on its way.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    number: int | None = None
    begun: float = 0.0
    ends: bool = False


@dataclass(slots=True)
class _Batch:
    tally: Tally
    job: Job
    board: Board | None
    keep_going: bool
    workers: list[_Worker] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.tally.collection.found)))

    @property
    def goes_on(self) -> bool:
        return bool(self.waiting) and (self.keep_going or not self.tally.has_failed)

    def start(self) -> None:
        """One more worker, if there is something left for it."""
        if not self.goes_on:
            return
        worker = _spawned()
        self.workers.append(worker)
        kept = {name: getattr(self.tally.session, name) for name in _KEPT}
        with suppress(OSError):  # It died at once: `listen` will tell.
            worker.connection.send((self.job, Session(**kept, stdout=None), self.board is not None))
        self.give(worker)

    def give(self, worker: _Worker) -> None:
        """The next checkpoint, or the end."""
        if not self.goes_on:
            self.dismiss(worker)
            return
        worker.number, worker.begun = self.waiting.popleft(), time.monotonic()
        with suppress(OSError):
            worker.connection.send(self.tally.collection.found[worker.number])

    def listen(self) -> None:
        """Wait for a message of any worker, and do what it says."""
        by_connection = {worker.connection: worker for worker in self.workers}
        with _signals(signal.SIG_UNBLOCK):
            ready = wait(list(by_connection))
        for connection in ready:
            worker = by_connection[connection]  # type: ignore[index]
            if not self.heard(worker):
                self.lost(worker)
            elif worker.number is None and not worker.ends:
                self.give(worker)

    def heard(self, worker: _Worker) -> bool:
        """Take one message of a worker; False where it is gone."""
        try:
            kind, *values = worker.connection.recv()
        except Exception:  # noqa: BLE001 - half a message, of a process that died
            return False
        number = worker.number
        if kind == "text":
            self.tally.session.tell(*values)
        elif number is not None and kind == "done":
            worker.number = None
            self.done(number, *values)
        elif number is not None and kind == "stopped":
            worker.number, worker.ends = None, True
            self.done(number, stopped_answer(values[0]), values[1])
        elif number is not None and self.board is not None:
            getattr(self.board, kind)(number, *values)
        return True

    def done(self, number: int, answer: Answer, seconds: float) -> None:
        if self.board is not None:
            self.board.end(number)
        self.tally.add(number, answer, seconds)

    def lost(self, worker: _Worker) -> None:
        """A worker ended by itself: its checkpoint failed, and another worker takes its place."""
        self.dismiss(worker)
        if worker.number is not None:
            error = _died(worker, str(self.tally.collection.found[worker.number].path))
            self.tally.session.complain(error)
            answer = Answer({}, "", error.exit_code, error_data(error), "failed")
            self.done(worker.number, answer, time.monotonic() - worker.begun)
        self.start()

    def dismiss(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.connection.close()
        try:
            worker.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            # It has nothing more to do, and a library of its model will not let it end.
            worker.process.kill()
            worker.process.wait()

    def stop(self) -> None:
        """Stop every worker, and hear what each says last. They need no second signal: this one
        makes them unwind, which must not be disturbed."""
        ignore_signals()
        for worker in self.workers:
            worker.process.terminate()
        for worker in list(self.workers):
            while self.heard(worker):
                pass
            if worker.number is not None:
                self.done(worker.number, stopped_answer(None), time.monotonic() - worker.begun)
            self.dismiss(worker)

    def end(self) -> None:
        """After a defect of ours: no worker stays behind."""
        for worker in list(self.workers):
            worker.process.terminate()
            self.dismiss(worker)


def _spawned() -> _Worker:
    ours, theirs = socket.socketpair()
    with theirs:
        code = _CODE.format(path=sys.path, fd=theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=2,  # Whatever a model prints is no answer.
        )
    return _Worker(process, Connection(ours.detach()))


@contextmanager
def _signals(how: int) -> Iterator[None]:
    """Block the signals that stop a run, or let them through; a new process inherits that."""
    before = signal.pthread_sigmask(how, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _died(worker: _Worker, path: str) -> MigrationError:
    code = worker.process.returncode
    how = f"ended with exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"was ended by {signal.Signals(-code).name}"
    return MigrationError(
        "CKM597",
        f"the process that worked on it {how}",
        where=path,
        why="The kernel ends a process when memory runs out; a library may crash; someone may have "
        "ended it.",
        fix="The checkpoint is the complete old one or the complete new one: `ckmigrate current` "
        "tells. Run again, with fewer --jobs where memory is short.",
    )
