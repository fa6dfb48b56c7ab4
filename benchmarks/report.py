"""Rows as a Markdown page, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from benchmarks.measure import Row, Skipped

__all__ = ["data", "page", "table_head", "table_line"]

_COLUMNS = (
    "file and change",
    "cache",
    "size",
    "against",
    "ratio (range)",
    "noise",
    "ours",
    "theirs",
    "our peak",
    "their peak",
    "promise",
)
_READING = """\
Each row compares two commands, each a fresh process, in turn on the same files. The ratio is our
time over theirs: the median of the pairs (three times as many where it is `cp + fsync`), with the
least and the greatest. Noise is `cp + fsync` paired with itself: what lies inside that range is no
difference. Everything written is on stable storage when the clock stops. Peaks are of the largest
process. Starting Python is part of every time; the first row says how long that takes.
"""


def page(machine: Mapping[str, str], results: Sequence[Row | Skipped], command: str) -> str:
    """The page that `benchmarks/RESULTS.md` is."""
    lines = ["# Results", "", f"`{command}`", ""]
    lines += [f"* {key}: {value}" for key, value in machine.items()]
    rows = [result for result in results if isinstance(result, Row)]
    lines += ["", _READING, *table_head(), *map(table_line, rows)]
    skipped = [result for result in results if isinstance(result, Skipped)]
    lines += ["", "Not measured:", ""] if skipped else []
    lines += [f"* {s.scenario}, {s.other}: {s.why}" for s in skipped]
    lines += ["", _summary(rows)]
    return "\n".join(lines) + "\n"


def table_head() -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|" + "---|" * len(_COLUMNS)


def table_line(row: Row) -> str:
    verdict = f"{row.limit}: {row.verdict}" if row.limit else ""
    cells = (
        row.scenario,
        row.cache,
        _size(row.nbytes),
        row.other,
        f"{row.ratio:.2f} ({_range(row.ratios)})",
        _range(row.noise) if row.noise else "",
        f"{row.ours.seconds:.2f} s",
        f"{row.theirs.seconds:.2f} s",
        f"{row.ours.megabytes:.0f} MB",
        f"{row.theirs.megabytes:.0f} MB",
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def data(machine: Mapping[str, str], results: Iterable[Row | Skipped]) -> dict[str, object]:
    """Everything that was measured, every pair included."""
    rows = []
    for result in results:
        fields = asdict(result)
        if isinstance(result, Row):
            fields |= {"limit": str(result.limit or ""), "verdict": result.verdict}
        rows.append(fields)
    return {"machine": dict(machine), "results": rows}


def _summary(rows: Sequence[Row]) -> str:
    verdicts = [row.verdict for row in rows if row.verdict]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Promises: {listed or 'none judged'}."


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 10**8 else f"{nbytes / 1e6:.1f} MB"
