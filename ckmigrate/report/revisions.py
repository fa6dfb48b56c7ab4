"""Revisions as text."""

from __future__ import annotations

from ckmigrate.report.escape import printable
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script

__all__ = ["history_lines", "revision_text", "script_text"]


def revision_text(history: History, revision: str | None) -> str:
    """ "base", or the id with its file name and release: `9f3a… (0004_split_qkv) [1.2]`."""
    if revision is None:
        return "base"
    script = history.script(revision)
    release = f" [{printable(script.release)}]" if script.release else ""
    return f"{script.id} ({printable(script.path.stem)}){release}"


def history_lines(history: History, *, graph: bool) -> list[str]:
    """One line per revision, newest first; with lanes of the branches if `graph`."""
    newest = tuple(reversed(history.order))
    lanes = _lanes(newest) if graph else ["" for _ in newest]
    width = max((len(script.path.stem) for script in newest), default=0)
    return [
        f"{lane}{_line(history, script, min(width, 44))}".rstrip()
        for lane, script in zip(lanes, newest, strict=True)
    ]


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
    marks = [
        "head" if script.id in history.heads else "",
        "merge" if len(script.parents) > 1 else "",
        "branches" if len(history.children[script.id]) > 1 else "",
        "todo" if script.has_todo else "",
    ]
    shown = ", ".join(mark for mark in marks if mark)
    release = f"[{printable(script.release)}] " if script.release else ""
    tail = f" ({shown})" if shown else ""
    name = printable(script.path.stem)
    return f"{script.id}  {name:<{width}}  {release}{printable(script.message)}{tail}"


def _lanes(newest: tuple[Script, ...]) -> list[str]:
    """A column for every branch that is open at a revision; `*` marks its own."""
    rows: list[str] = []
    open_lanes: list[str] = []
    for script in newest:
        if script.id not in open_lanes:
            open_lanes.append(script.id)
        column = open_lanes.index(script.id)
        rows.append(" ".join("*" if i == column else "|" for i in range(len(open_lanes))) + "  ")
        after = open_lanes[:column] + list(script.parents) + open_lanes[column + 1 :]
        open_lanes = list(dict.fromkeys(lane for lane in after if lane != script.id))
    width = max(map(len, rows), default=0)
    return [f"{row:<{width}}" for row in rows]
