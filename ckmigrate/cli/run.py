"""One run of the command line: parse, do, report, exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import CkmigrateError, MigrationError, StorageError, UsageError

if TYPE_CHECKING:
    from ckmigrate.execute.commit import Committed

__all__ = ["EXIT_INTERRUPTED", "INTERRUPTED", "committed_by", "failed", "interrupted", "run"]

EXIT_INTERRUPTED = 130
INTERRUPTED: Mapping[str, object] = {
    **dict.fromkeys(("where", "why", "fix")),
    "code": "interrupted",
    "what": "interrupted; nothing was written",
    "details": [],
}
"""The fields of the error after a signal."""


def run(arguments: Sequence[str]) -> int:
    """Run a command and report what came of it; never raises."""
    session = Session(
        json="--json" in arguments,
        json_lines="--json-lines" in arguments,
        debug="--debug" in arguments,
    )
    try:
        _stop_on_signals()
        _prepare_streams()
        answer = _invoked(session, arguments)
    except KeyboardInterrupt as interrupt:
        answer = interrupted(session, interrupt)
    except Exception as error:  # noqa: BLE001 - a defect must not end in a traceback either
        answer = failed(session, error)
    return _report(session, answer)


def interrupted(
    session: Session, interrupt: KeyboardInterrupt, earlier: Mapping[str, object] | None = None
) -> Answer:
    """What to say after Ctrl-C; the commit knows whether it came too late to stop anything."""
    committed = committed_by(interrupt)
    what = str(INTERRUPTED["what"])
    if committed is not None:
        what = f"interrupted, but {committed.path} was complete by then: the new file stands"
    elif _are_some_done(earlier or {}):
        what = "interrupted; what was at hand was left as it was, those reported before are done"
    session.note(f"error: {what}")
    error = {**INTERRUPTED, "what": what}
    return Answer(dict(earlier or {}), "", EXIT_INTERRUPTED, error)


def _are_some_done(earlier: Mapping[str, object]) -> bool:
    results = earlier.get("results")
    return isinstance(results, list) and any(result["ok"] for result in results)


def committed_by(interrupt: BaseException | None) -> Committed | None:
    """What was committed before; a second Ctrl-C may have come while the first one was handled."""
    while interrupt is not None:
        found: Committed | None = getattr(interrupt, "committed", None)
        if found is not None:
            return found
        interrupt = interrupt.__context__
    return None


def _invoked(session: Session, arguments: Sequence[str]) -> Answer:
    import click

    from ckmigrate.cli.app import app

    try:
        with app.make_context("ckmigrate", list(arguments), obj=session) as context:
            result = app.invoke(context)
    except click.exceptions.Exit as done:
        # --help and --version have printed their text.
        return _told(session, done)
    except click.UsageError as error:
        raise _usage(error) from None
    return result if isinstance(result, Answer) else Answer()


def _told(session: Session, done: object) -> Answer:
    # --help and --version answer in text even with --json.
    session.json = session.json_lines = False
    return Answer(exit_code=getattr(done, "exit_code", 0))


def _usage(error: object) -> UsageError:
    import click

    assert isinstance(error, click.UsageError)
    context = error.ctx
    place = context.command_path if context else "ckmigrate"
    fix = f"`{place} --help` shows what it takes, with an example."
    if isinstance(error, click.NoSuchOption) and error.option_name[1:].isdigit():
        fix = "A revision that is some steps back is written head-1, or --to -1 from the file."
    return UsageError(
        "CKM200",
        error.format_message().rstrip("."),
        fix=fix,
    )


def failed(session: Session, error: Exception, *, where: str | None = None) -> Answer:
    """Report an error, at a place where it names none; the answer that is a failure."""
    from ckmigrate.report.errors import error_data

    told = error if isinstance(error, CkmigrateError) else _defect(error)
    told.where = told.where or where
    if told is not error and session.debug:
        session.show_traceback(error)
    session.complain(told)
    return Answer({}, "", told.exit_code, error_data(told))


def _defect(error: Exception) -> CkmigrateError:
    """An exception that no part of ckmigrate expected."""
    told = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(
            "CKM798",
            f"input/output error: {error.strerror or error}",
            where=None if error.filename is None else str(error.filename),
            fix="Check the path, its permissions and the disk.",
        )
    if isinstance(error, MemoryError):
        return MigrationError(
            "CKM598",
            "out of memory; nothing was written",
            why="a step needs more than this process may have",
            fix="See `ckmigrate plan` for the largest step, and run where there is more memory.",
        )
    return MigrationError(
        "CKM599",
        f"internal error: {told}",
        why="This is a defect of ckmigrate, not of your checkpoint; nothing was written.",
        fix="Run again with --debug and report the traceback with the command that you ran.",
    )


def _report(session: Session, answer: Answer) -> int:
    if not session.is_text:
        session.write(_document(session, answer))
    elif answer.text:
        session.say(answer.text)
    if session.failure is None:
        return answer.exit_code
    if isinstance(session.failure, BrokenPipeError):
        # Whoever read has seen enough, as in `ckmigrate history | head -1`.
        return answer.exit_code
    return answer.exit_code or _undelivered(session, session.failure)


def _document(session: Session, answer: Answer) -> str:
    import json

    head = {"ok": answer.exit_code == 0, "command": session.verb, "exit_code": answer.exit_code}
    error = {} if answer.error is None else {"error": answer.error}
    if session.json_lines:
        # The results were lines of their own.
        rest = {key: value for key, value in answer.data.items() if key != "results"}
        return json.dumps({"type": "summary", **head, **error, **rest}, allow_nan=False)
    return json.dumps({**head, **error, **answer.data}, indent=2, allow_nan=False)


def _undelivered(session: Session, failure: OSError) -> int:
    error = StorageError(
        "CKM791",
        f"cannot write to standard output: {failure.strerror or failure}",
        why="The command itself was carried out; only its answer is lost.",
        fix="Send the output elsewhere. What was written to files stands.",
    )
    session.complain(error)
    return error.exit_code


def _stop_on_signals() -> None:
    """SIGTERM and SIGHUP clean up like Ctrl-C, unless whoever started us wants them ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)


def _prepare_streams() -> None:
    """Make sure that no checkpoint can get the descriptor of a stream that was closed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)
            if number == 1:
                raise _no_stdout() from None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _no_stdout() -> StorageError:
    return StorageError(
        "CKM791",
        "standard output is closed, so the answer could not be given",
        why="Nothing was done.",
        fix="Send it to a file or to /dev/null.",
    )
