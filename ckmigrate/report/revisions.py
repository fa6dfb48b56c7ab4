"""Revisions as text."""

from __future__ import annotations

from ckmigrate.report.escape import printable
from ckmigrate.report.graph import Row, draw
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script

__all__ = ["graph_lines", "history_lines", "revision_text", "script_text"]


def revision_text(history: History, revision: str | None) -> str:
    """ "base", or the id with its file name and release: `9f3a… (0004_split_qkv) [1.2]`."""
    if revision is None:
        return "base"
    script = history.script(revision)
    release = f" [{printable(script.release)}]" if script.release else ""
    return f"{script.id} ({printable(script.path.stem)}){release}"


def history_lines(history: History) -> list[str]:
    """One line per revision, newest first."""
    newest = tuple(reversed(history.order))
    width = min(44, max((len(script.path.stem) for script in newest), default=0))
    return [_line(history, script, width).rstrip() for script in newest]


def graph_lines(history: History, *, width: int | None = None) -> list[str]:
    """The same as a drawing, which ends in the base; of `width` columns where the lanes leave room
    for an id."""
    nodes = ((script.id, script.parents) for script in reversed(history.order))
    lines = [_graph_line(history, row, width) for row in draw(nodes)]
    return [*lines, "o  base"] if lines else []


def _graph_line(history: History, row: Row, width: int | None) -> str:
    if row.node is None:
        return row.lanes
    script = history.script(row.node)
    parts = (
        f"[{printable(script.release)}]" if script.release else "",
        f"({', '.join(marks)})" if (marks := _marks(history, script)) else "",
        printable(script.path.stem),
        printable(script.message),
    )
    text = "  ".join((script.id, *filter(None, parts)))
    if width is None:
        return f"{row.lanes}  {text}"
    room = max(len(script.id), width - len(row.lanes) - 2)
    return f"{row.lanes}  {text if len(text) <= room else _cut(text, room)}"


def _cut(text: str, room: int) -> str:
    """The beginning of a text; an id is never cut."""
    return text[:room] if " " not in text[:room] else text[: room - 1].rstrip() + "…"


def script_text(history: History, script: Script) -> str:
    """Everything about one revision, and its text."""
    facts = {
        "file": str(script.path),
        "revises": ", ".join(history.label(p) for p in script.parents) or "base",
        "revised by": ", ".join(history.label(c) for c in history.children[script.id]) or "nothing",
        "release": script.release,
        "way back": _way_back(script),
        "verify": "verify(old, new)" if script.has_verify else None,
        "unfinished": f"todo in line {script.todo_lines[0]}" if script.has_todo else None,
    }
    head = f"{script.id} {script.message}"
    lines = [printable(head)]
    lines += [f"  {key + ':':<12}{printable(value)}" for key, value in facts.items() if value]
    lines += ["", *("    " + printable(line) for line in script.source.rstrip().split("\n"))]
    return "\n".join(line.rstrip() for line in lines)


def _way_back(script: Script) -> str:
    if script.irreversible is not None:
        return f"none: {script.irreversible}"
    return "downgrade(ck)" if script.has_downgrade else "derived from its operations"


def _line(history: History, script: Script, width: int) -> str:
    release = f"[{printable(script.release)}] " if script.release else ""
    tail = f" ({', '.join(marks)})" if (marks := _marks(history, script)) else ""
    name = printable(script.path.stem)
    return f"{script.id}  {name:<{width}}  {release}{printable(script.message)}{tail}"


def _marks(history: History, script: Script) -> list[str]:
    marks = {
        "head": script.id in history.heads,
        "merge": len(script.parents) > 1,
        "branches": len(history.children[script.id]) > 1,
        "todo": script.has_todo,
    }
    return [mark for mark, holds in marks.items() if holds]
