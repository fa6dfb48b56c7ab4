"""What a verb works with: the global options, the two streams, the project.

stdout carries the answer and nothing else; remarks, warnings and errors go to stderr. A stream that
fails is noted and never raises: an upgrade does not stop half-way because a reader went away.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ckmigrate.journal import JOURNAL
from ckmigrate.report.escape import printable_text

if TYPE_CHECKING:
    from ckmigrate.errors import CkmigrateError
    from ckmigrate.project import Project
    from ckmigrate.revisions.graph import History

__all__ = ["Answer", "Session"]

_COLOURS = {
    "error": "31;1",
    "problem": "31;1",
    "failed": "31;1",
    "warning": "33",
    "note": "36",
    "wrote": "32",
    "ok": "32",
}
_WORD = re.compile(rf"({'|'.join(_COLOURS)})\b")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb found.

    data       the fields of the JSON document
    text       the same for a person; printed on stdout at once
    exit_code  0, or the code of the table in the top-level help
    error      the error of `error_data`, where the answer is a failure
    outcome    what became of a checkpoint that was to be written: "written", "copied" (nothing to
               migrate), "done" (the result of an earlier run is there), "current" (left alone),
               "failed", "interrupted" or "not tried"; of one that was verified: "verified"; None
               where a verb only tells something
    """

    data: Mapping[str, object] = field(default_factory=dict)
    text: str = ""
    exit_code: int = 0
    error: Mapping[str, object] | None = None
    outcome: str | None = None


@dataclass(slots=True)
class Session:
    """One run of the command; the global options, which may stand before or after the verb.

    verb     its name, once it is known
    failure  the error of a stdout that could not be written
    stdout   where the answer goes; `sys.stdout` is stderr while scripts and models run
    aside    entered while a text is written: takes a progress bar out of its way
    """

    config: Path | None = None
    json: bool = False
    json_lines: bool = False
    quiet: bool = False
    verbose: int = 0
    no_input: bool = False
    color: str = "auto"
    debug: bool = False
    verb: str | None = None
    failure: OSError | None = None
    stdout: TextIO | None = field(default_factory=lambda: sys.stdout)
    aside: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def is_text(self) -> bool:
        """Whether the answer is for a person."""
        return not (self.json or self.json_lines)

    def project(self) -> Project:
        """The project of this folder, or of --config; a change of its scripts that was cut off is
        taken back first."""
        from ckmigrate.project import find_project

        project = find_project(Path.cwd(), config=self.config)
        if os.path.lexists(project.migrations / JOURNAL):
            self._settle(project.migrations)
        return project

    def _settle(self, migrations: Path) -> None:
        from ckmigrate.file_set import settle_files  # rarely needed

        files = settle_files(migrations)
        if files:
            names = ", ".join(path.name for path in files)
            self.note(f"note: a change of {names} that was cut off was taken back")

    def history(self, project: Project) -> History:
        """The scripts of a project, as a checked graph."""
        from ckmigrate.revisions.graph import read_history

        return read_history(project.migrations)

    def say(self, text: str) -> None:
        """Part of the answer; nothing where JSON is the answer."""
        if text and self.is_text:
            self.write(text)

    def say_line(self, data: Mapping[str, object]) -> None:
        """One line of the answer with --json-lines; nothing otherwise."""
        if self.json_lines:
            self.write(json.dumps(data, allow_nan=False))

    def note(self, text: str) -> None:
        """A remark or a warning, unless --quiet."""
        if not self.quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """A text on stderr, whatever the options are."""
        self._put(lambda: sys.stderr, text)

    def prompt(self, text: str) -> None:
        """A question on stderr; the answer is typed behind it."""
        self._put(lambda: sys.stderr, text, end="")

    def complain(self, error: CkmigrateError) -> None:
        """Report an error on stderr."""
        from ckmigrate.report.errors import error_text

        if self.debug:
            self.show_traceback(error)
        self.tell(error_text(error))

    def show_traceback(self, error: BaseException) -> None:
        """Where an error was raised, for --debug."""
        import traceback

        self.tell("".join(traceback.format_exception(error)).rstrip())

    def write(self, text: str) -> None:
        """Text on stdout; an error is kept in `failure`."""
        if self.failure is None:
            self.failure = self._put(lambda: self.stdout, text)

    def _put(
        self, find: Callable[[], TextIO | None], text: str, *, end: str = "\n"
    ) -> OSError | None:
        # Found only once the bar is gone: while it is there, stderr is another one.
        with self.aside():
            stream = find()
            if stream is None:
                return None
            shown = printable_text(text)
            try:
                stream.write((self._coloured(shown) if self._has_colour(stream) else shown) + end)
                stream.flush()
            except OSError as error:
                return error
        return None

    def _has_colour(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return not plain and stream.isatty()

    def _coloured(self, text: str) -> str:
        """The words that begin a line and say how it ended, in colour."""
        return "\n".join(
            _WORD.sub(lambda word: f"\x1b[{_COLOURS[word[1]]}m{word[1]}\x1b[0m", line, count=1)
            if _WORD.match(line)
            else line
            for line in text.split("\n")
        )
