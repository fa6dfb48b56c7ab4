"""Findings of a check: for a person, as data, and as annotations of a GitHub workflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckmigrate.checking import Finding
from ckmigrate.errors import CkmigrateError
from ckmigrate.report.escape import printable, printable_text

__all__ = ["annotation", "error_annotation", "finding_data", "finding_lines", "repository_root"]

_LEVELS = {"problem": "error", "warning": "warning"}
_TITLE = "ckmigrate check"


def finding_lines(finding: Finding) -> Iterator[str]:
    """What, details and what to do, a line each."""
    yield f"{finding.kind}: {printable(finding.what)}"
    yield from (f"  - {printable(line)}" for line in finding.details)
    yield f"  fix: {printable(finding.fix)}"


def finding_data(finding: Finding) -> dict[str, object]:
    """The fields of a finding for JSON; file and line are null where there is no one place."""
    return {
        "kind": finding.kind,
        "what": finding.what,
        "fix": finding.fix,
        "details": list(finding.details),
        "file": None if finding.path is None else str(finding.path),
        "line": finding.line,
    }


def annotation(finding: Finding, root: Path) -> str:
    """A workflow command of GitHub Actions, which shows the finding beside the line that it is
    about: `::error file=migrations/0004_split.py,line=12,title=…::…`. Paths are relative to the
    root of the repository."""
    text = "\n".join([finding.what, *(f"- {line}" for line in finding.details), finding.fix])
    return _command(_LEVELS[finding.kind], text, _place(finding.path, finding.line, root))


def error_annotation(error: CkmigrateError) -> str:
    """The same for an error that ends the check before there are findings."""
    text = "\n".join(
        [
            f"{error.code}: {error.what}",
            *(text for text in (error.where, *error.details, error.why, error.fix) if text),
        ]
    )
    return _command("error", text, {})


def repository_root(folder: Path) -> Path:
    """The nearest folder at or above that git has under control; the folder itself where none."""
    folder = folder.resolve()
    return next((f for f in (folder, *folder.parents) if (f / ".git").exists()), folder)


def _place(path: Path | None, line: int | None, root: Path) -> dict[str, str]:
    if path is None:
        return {}
    path = path.resolve()
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return {"file": shown.as_posix(), **({} if line is None else {"line": str(line)})}


def _command(level: str, text: str, place: dict[str, str]) -> str:
    properties = {**place, "title": _TITLE}
    shown = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{level} {shown}::{_data(printable_text(text))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
