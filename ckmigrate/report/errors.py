"""An error as text and as data."""

from __future__ import annotations

from ckmigrate.errors import CkmigrateError
from ckmigrate.report.escape import printable, printable_text

__all__ = ["error_data", "error_text"]


def error_text(error: CkmigrateError) -> str:
    """The lines that a person reads; every value is printable."""
    lines = [f"error[{error.code}]: {printable(error.what)}"]
    if error.where:
        lines.append(f"  at: {printable(error.where)}")
    lines.extend(_item("- ", detail) for detail in error.details)
    if error.why:
        lines.append(_item("why: ", error.why))
    if error.fix:
        lines.append(_item("fix: ", error.fix))
    return "\n".join(lines)


def error_data(error: CkmigrateError) -> dict[str, object]:
    """The fields of an error for JSON; the names never change."""
    return {
        "code": error.code,
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "fix": error.fix,
        "details": list(error.details),
    }


def _item(label: str, text: str) -> str:
    """A labelled text; further lines of it are indented under the first."""
    margin = "\n" + " " * (2 + len(label))
    return "  " + label + printable_text(text).replace("\n", margin)
