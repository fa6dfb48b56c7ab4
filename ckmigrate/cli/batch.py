"""Many checkpoints in one command.

`each` is for verbs that read: a failure of one does not keep the others from their turn.
`write_all` is for verbs that write: after a failure nothing more is begun unless that is asked for,
and the work may be shared by processes. What is reported does not depend on their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckmigrate.cli.collect import Collection, Found, collect, size_of
from ckmigrate.cli.misplaced import require_paths
from ckmigrate.cli.progress import Board, Watch, shown_progress
from ckmigrate.cli.run import (
    EXIT_INTERRUPTED,
    INTERRUPTED,
    committed_by,
    failed,
    interrupted,
)
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.report.batch import Line, summary_data, summary_text

if TYPE_CHECKING:
    from ckmigrate.execute.commit import Committed

__all__ = [
    "Job",
    "Tally",
    "Work",
    "attempt",
    "each",
    "require_different",
    "stopped_answer",
    "write_all",
]

Work = Callable[[Found, Watch], Answer]


class Job(Protocol):
    """Work that another process can do too: it can be pickled."""

    def begin(self, session: Session) -> Work:
        """Load what all checkpoints need, once for each process."""
        ...

    def title(self, found: Found) -> str:
        """What a bar calls the result of a checkpoint."""
        ...


@dataclass(slots=True)
class Tally:
    """The answers so far, by the number of the checkpoint; each is said as soon as it is there."""

    session: Session
    collection: Collection
    answers: dict[int, Answer] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    @property
    def has_failed(self) -> bool:
        return any(answer.exit_code for answer in self.answers.values())

    def add(self, number: int, answer: Answer, seconds: float = 0.0) -> None:
        """Keep an answer, then say it: an interrupt meanwhile must not call it undone."""
        self.answers[number] = answer
        self.seconds[number] = round(seconds, 3)
        self.session.say(answer.text)
        self.session.say_line({"type": "result", **self.result(number)})

    def result(self, number: int) -> dict[str, object]:
        """The fields of one checkpoint in the JSON document."""
        answer, path = self.answers[number], self.collection.found[number].path
        code = None if answer.outcome == "not tried" else answer.exit_code
        head: dict[str, object] = {"path": str(path), "ok": code == 0, "exit_code": code}
        if answer.outcome is not None:
            head |= {"outcome": answer.outcome, "seconds": self.seconds[number]}
        error = {} if answer.error is None else {"error": answer.error}
        return {**head, **error, **answer.data}

    def data(self) -> dict[str, object]:
        """The document: every result in the order of the paths."""
        skipped = {"skipped": dict(self.collection.skipped)} if self.collection.searched else {}
        return {"results": [self.result(number) for number in sorted(self.answers)], **skipped}

    def end(self) -> Answer:
        """All answers as one; exit code and error are those of the first failure by its path."""
        first = next((a for _, a in sorted(self.answers.items()) if a.exit_code), Answer())
        return Answer(self.data(), "", first.exit_code, first.error)

    def lines(self) -> list[Line]:
        """What the summary is made of."""
        return [
            Line(
                str(self.collection.found[number].path),
                answer.outcome or "",
                _written(answer),
                self.seconds[number],
                answer.error,
            )
            for number, answer in sorted(self.answers.items())
        ]


def _written(answer: Answer) -> int:
    count = answer.data.get("bytes")
    return count if isinstance(count, int) else 0


def each(
    session: Session,
    paths: Sequence[Path],
    work: Work,
    *,
    found: Collection | None = None,
    is_long: bool = False,
) -> Answer:
    """The answers of all checkpoints as one: of `found`, or else of those that the paths mean.
    After Ctrl-C the rest is left alone. What is long has a bar, and of many a table at the end."""
    require_paths(session, paths)
    tally = Tally(session, _collected(session, found or collect(paths)))
    collection = tally.collection
    names = [str(one.relative) for one in collection.found]
    bar = shown_progress(session, names, lambda: _sizes(collection)) if is_long else nullcontext()
    try:
        with bar as board:
            for number in range(len(names)):
                begun = time.monotonic()
                tally.add(number, _tried(tally, number, work, board), time.monotonic() - begun)
    except KeyboardInterrupt as interrupt:
        return interrupted(session, interrupt, tally.data())
    return _summed_up(tally, tally.end()) if is_long else tally.end()


def _tried(tally: Tally, number: int, work: Work, board: Board | None) -> Answer:
    """The answer for one checkpoint, with the bar where there is one."""
    watch = Watch() if board is None else board.watch(number)
    answer = attempt(tally.session, tally.collection.found[number], work, watch)
    if board is not None:
        board.end(number)
    return answer


def write_all(
    session: Session, collection: Collection, job: Job, *, jobs: int, keep_going: bool
) -> Answer:
    """Carry out a job for every checkpoint, in up to `jobs` processes."""
    _collected(session, collection)
    # Here too: what is wrong with the project is told once, and before a process is made.
    work = job.begin(session)
    tally, count = Tally(session, collection), min(jobs, len(collection.found))
    names = [job.title(found) for found in collection.found]
    interrupt: KeyboardInterrupt | None = None
    try:
        with shown_progress(session, names, lambda: _sizes(collection)) as board:
            if count < 2:
                _one_by_one(tally, work, board, keep_going=keep_going)
            else:
                from ckmigrate.cli.processes import share

                share(tally, job, board, count=count, keep_going=keep_going)
    except KeyboardInterrupt as stopped:
        interrupt = stopped
    return _ended(tally, interrupt)


def attempt(session: Session, found: Found, work: Work, watch: Watch) -> Answer:
    """The answer for one checkpoint; of a failure too, which is reported."""
    try:
        return work(found, watch)
    except Exception as error:  # noqa: BLE001 - the others must have their turn
        return replace(failed(session, error, where=str(found.path)), outcome="failed")


def require_different(
    found: Sequence[Found], key: Callable[[Found], object], why: str, fix: str
) -> None:
    """UsageError CKM234 where two checkpoints of a batch would be written to one place."""
    seen: dict[object, Found] = {}
    for one in found:
        first = seen.setdefault(key(one), one)
        if first is not one:
            what = f"{first.path} and {one.path} would be written to the same file"
            raise UsageError("CKM234", what, why=why, fix=fix)


def _one_by_one(tally: Tally, work: Work, board: Board | None, *, keep_going: bool) -> None:
    for number in range(len(tally.collection.found)):
        begun = time.monotonic()
        try:
            answer = _tried(tally, number, work, board)
        except KeyboardInterrupt as interrupt:
            answer = stopped_answer(committed_by(interrupt))
            tally.add(number, answer, time.monotonic() - begun)
            raise
        tally.add(number, answer, time.monotonic() - begun)
        if answer.exit_code and not keep_going:
            return


def stopped_answer(committed: Committed | None) -> Answer:
    """Of a checkpoint that was at hand when a signal came: it may have been done by then."""
    if committed is None:
        return Answer({"written": False}, "", EXIT_INTERRUPTED, INTERRUPTED, "interrupted")
    backup = None if committed.backup is None else str(committed.backup)
    data = {"written": True, "output": str(committed.path), "backup": backup}
    return Answer(data, outcome="written")


def _ended(tally: Tally, interrupt: KeyboardInterrupt | None) -> Answer:
    """The whole answer; what was not begun is in it too."""
    for number in range(len(tally.collection.found)):
        if number not in tally.answers:
            tally.add(number, Answer({"written": False}, "", 0, None, "not tried"))
    return _summed_up(tally, tally.end(), interrupt)


def _summed_up(tally: Tally, answer: Answer, interrupt: KeyboardInterrupt | None = None) -> Answer:
    """The answer with the counts of all outcomes; of a batch also as a table."""
    seconds, lines, verb = time.monotonic() - tally.begun, tally.lines(), tally.session.verb or ""
    answer = replace(answer, data={**answer.data, "summary": summary_data(lines, seconds, verb)})
    if interrupt is not None:
        answer = interrupted(tally.session, interrupt, answer.data)
    if not tally.collection.is_batch:
        return answer
    return replace(answer, text=summary_text(lines, seconds, verb))


def _collected(session: Session, collection: Collection) -> Collection:
    if collection.remark is not None:
        session.note(f"note: {collection.remark}")
    return collection


def _sizes(collection: Collection) -> list[int]:
    return [size_of(found.path) for found in collection.found]
