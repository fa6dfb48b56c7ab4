"""Revisions as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckmigrate.report.escape import printable
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script

if TYPE_CHECKING:
    from ckmigrate.report.graph import Row
    from ckmigrate.revisions.lock import LockLine

__all__ = ["graph_lines", "history_lines", "revision_text", "script_lines", "source_lines"]


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
    lines = [(_line(history, script, width), *_stand_in(history, script)) for script in newest]
    return [line.rstrip() for group in lines for line in group]


def graph_lines(history: History, *, width: int | None = None) -> list[str]:
    """The same as a drawing, which ends in the base; of `width` columns where the lanes leave room
    for an id."""
    from ckmigrate.report.graph import draw

    nodes = ((script.id, script.parents) for script in reversed(history.order))
    lines = [line for row in draw(nodes) for line in _graph_lines(history, row, width)]
    return [*lines, "o  base"] if lines else []


def _graph_lines(history: History, row: Row, width: int | None) -> list[str]:
    if row.node is None:
        return [row.lanes]
    script = history.script(row.node)
    below = row.lanes.replace("*", "|")
    beside = [_cut_to(f"{below}  {text}", width) for text in _stand_in(history, script)]
    return [_graph_line(history, row.lanes, script, width), *beside]


def _stand_in(history: History, script: Script) -> list[str]:
    """The squashed script beside its originals, below the last of them."""
    squash = history.squashed.get(script.id)
    if squash is None:
        return []
    count = f"({len(squash.replaces)} in one)"
    return [f"= {printable(squash.path.stem)}  {count}  {printable(squash.message)}".rstrip()]


def _cut_to(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else _cut(line, width)


def _graph_line(history: History, lanes: str, script: Script, width: int | None) -> str:
    parts = (
        f"[{printable(script.release)}]" if script.release else "",
        f"({', '.join(marks)})" if (marks := _marks(history, script)) else "",
        printable(script.path.stem),
        printable(script.message),
    )
    text = "  ".join((script.id, *filter(None, parts)))
    if width is None:
        return f"{lanes}  {text}"
    room = max(len(script.id), width - len(lanes) - 2)
    return f"{lanes}  {text if len(text) <= room else _cut(text, room)}"


def _cut(text: str, room: int) -> str:
    """The beginning of a text; an id is never cut."""
    return text[:room] if " " not in text[:room] else text[: room - 1].rstrip() + "…"


def script_lines(
    history: History, script: Script, *, back: Sequence[str], recorded: LockLine | None
) -> list[str]:
    """What a revision declares and where it stands; `back` says whether it can be undone, and
    `recorded` is its line of the lock."""
    facts = {
        "file": [str(script.path)],
        "revises": [history.label(parent) for parent in script.parents] or ["base"],
        "revised by": [history.label(c) for c in history.children[script.id]] or ["nothing"],
        "replaces": [", ".join(script.replaces)] if script.replaces else [],
        "formerly": [old for old, _ in script.formerly],
        "release": [script.release] if script.release else [],
        "digest": recorded.digests if recorded else [],
        "signature": recorded.signatures if recorded else [],
        "way back": back,
        "verify": ["verify(old, new)"] if script.has_verify else [],
        "unfinished": [f"todo in line {line}" for line in script.todo_lines],
    }
    lines = [f"{script.id} {printable(script.message)}".rstrip()]
    for key, values in facts.items():
        heads = [f"{key}:", *[""] * len(values)]
        lines += [f"  {h:<12}{printable(v)}" for h, v in zip(heads, values, strict=False)]
    return lines


def source_lines(script: Script) -> list[str]:
    """The text of a script, indented."""
    lines = script.source.rstrip().split("\n")
    return [f"    {printable(line)}".rstrip() for line in lines]


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
        f"stands for {len(script.replaces)}": bool(script.replaces),
        "squashed": any(script.id in other.replaces for other in history.squashed.values()),
    }
    return [mark for mark, holds in marks.items() if holds]
