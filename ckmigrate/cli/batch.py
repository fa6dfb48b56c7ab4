"""Several files, one after the other: a failure of one does not keep the others from their turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ckmigrate.cli.run import interrupted
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import CkmigrateError, UsageError
from ckmigrate.report.errors import error_data

__all__ = ["each", "require_different"]


def each(session: Session, paths: Sequence[Path], work: Callable[[Path], Answer]) -> Answer:
    """The answers of all files as one. Exit code and error are those of the first failure; the
    text of each is said as soon as it is there. After Ctrl-C the rest is left alone."""
    results: list[dict[str, object]] = []
    first = Answer()
    for path in paths:
        try:
            answer = work(path)
        except CkmigrateError as error:
            error.where = error.where or str(path)
            session.complain(error)
            answer = Answer({}, "", error.exit_code, error_data(error))
        except KeyboardInterrupt as interrupt:
            return interrupted(session, interrupt, {"results": results})
        # Before it is said: an interrupt while it is must not call it undone.
        results.append(_result(path, answer))
        first = first if first.exit_code else answer
        session.say(answer.text)
    return Answer({"results": results}, "", first.exit_code, first.error)


def require_different(paths: Sequence[Path], key: Callable[[Path], object], why: str) -> None:
    """UsageError CKM234 where two files of a batch would be written to one place."""
    seen: dict[object, Path] = {}
    for path in paths:
        first = seen.setdefault(key(path), path)
        if first is not path:
            raise UsageError(
                "CKM234",
                f"{first} and {path} would be written to the same file",
                why=why,
                fix="Give each file once, or run them one by one into different folders.",
            )


def _result(path: Path, answer: Answer) -> dict[str, object]:
    head = {"path": str(path), "ok": answer.exit_code == 0, "exit_code": answer.exit_code}
    error = {} if answer.error is None else {"error": answer.error}
    return {**head, **error, **answer.data}
