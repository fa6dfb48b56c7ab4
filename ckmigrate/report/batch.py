"""What became of many checkpoints, as a table and as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.report.escape import printable
from ckmigrate.report.units import bytes_text, counted

__all__ = ["Line", "summary_data", "summary_text"]

_OUTCOMES = ("written", "copied", "done", "current", "failed", "interrupted", "not tried")
_OF_READING = {"verify": ("verified", "failed")}
"""What becomes of a checkpoint; of verbs that write nothing, something else."""

_WORDS = {
    "upgrade": {"written": "upgraded", "done": "already done", "current": "already current"},
    "downgrade": {"written": "downgraded", "done": "already done", "current": "already there"},
    "stamp": {"written": "stamped", "done": "already done", "current": "already stamped"},
}


@dataclass(frozen=True, slots=True)
class Line:
    """One checkpoint: `written` are its bytes that were written, or read where nothing is written;
    `error` its fields where it failed."""

    path: str
    outcome: str
    written: int
    seconds: float
    error: Mapping[str, object] | None = None


def summary_data(lines: Sequence[Line], seconds: float, verb: str) -> dict[str, object]:
    """Counts of every outcome, bytes that were written or read, and seconds from begin to end."""
    kinds = _OF_READING.get(verb, _OUTCOMES)
    counts = {kind: sum(line.outcome == kind for line in lines) for kind in kinds}
    return {
        "checkpoints": len(lines),
        **{kind.replace(" ", "_"): count for kind, count in counts.items()},
        "bytes": sum(line.written for line in lines),
        "seconds": round(seconds, 3),
    }


def summary_text(lines: Sequence[Line], seconds: float, verb: str) -> str:
    """A row for every outcome that there was, and below it what failed, each in one line.

    The times of the rows are those of their checkpoints together: with several processes that is
    more than the time of the whole.
    """
    rows = [
        _row(_WORDS.get(verb, {}).get(kind, kind), group)
        for kind in _OF_READING.get(verb, _OUTCOMES)
        if (group := [line for line in lines if line.outcome == kind])
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    written = sum(line.written for line in lines)
    head = [counted(len(lines), "checkpoint"), bytes_text(written), _time(seconds)]
    return "\n".join(["", ", ".join(head), *(_aligned(row, widths) for row in rows), *_bad(lines)])


def _row(word: str, lines: Sequence[Line]) -> tuple[str, str, str, str]:
    written = sum(line.written for line in lines)
    spent = sum(line.seconds for line in lines)
    is_work = lines[0].outcome != "not tried"
    return (
        word,
        str(len(lines)),
        bytes_text(written) if written else "",
        _time(spent) if is_work else "",
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    word, *numbers = row
    cells = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
    return "  ".join(["", word.ljust(widths[0]), *cells]).rstrip()


def _bad(lines: Iterable[Line]) -> list[str]:
    return [
        f"failed {printable(line.path)}: {printable(line.error['what'])} [{line.error['code']}]"
        for line in lines
        if line.outcome == "failed" and line.error is not None
    ]


def _time(seconds: float) -> str:
    """ "0.4 s", "12 s", "3:05 min", "1:02:03 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"
