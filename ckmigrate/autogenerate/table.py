"""A draft as one table: what is certain, what is a guess, and what is ambiguous.

certain
  1  rename("transformer.**", "encoder.**")   ×24  all names kept but the first segment
ambiguous: say which, otherwise it becomes a todo
  2  rename("a.weight", "c.weight")                two entries have this shape
       a.weight → c.weight
  2.1  rename("a.weight", "d.weight")
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckmigrate.autogenerate.decide import todo_text
from ckmigrate.autogenerate.proposal import Certainty, Draft, Proposal
from ckmigrate.autogenerate.words import moved_text, one_line, spelled
from ckmigrate.report.escape import printable

__all__ = ["draft_table"]

_CERTAINTIES: tuple[Certainty, ...] = ("certain", "guess", "ambiguous")
_ASKED: Mapping[Certainty, str] = {
    "certain": "certain",
    "guess": "guess: written if you accept",
    "ambiguous": "ambiguous: edit and choose, otherwise it becomes a todo",
}
_MOST_NAMES = 3
_NARROWEST = 24
_WIDEST = 72


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of cells; a row of names has no number and takes the whole width."""

    number: str
    call: str
    why: str = ""


def draft_table(draft: Draft, *, width: int | None = None, asking: bool = True) -> str:
    """The table, in `width` columns; None: no line is broken, as for a file.

    asking  whether a question follows; its heads then say what an answer does
    """
    numbered = list(enumerate(draft.proposals, 1))
    sections = {
        _ASKED[certainty] if asking else certainty: [
            row for n, p in numbered if p.certainty == certainty for row in _rows(n, p)
        ]
        for certainty in _CERTAINTIES
    }
    sizes = _sizes([row for rows in sections.values() for row in rows], width)
    lines = [
        line
        for head, rows in sections.items()
        if rows
        for line in (head, *(text for row in rows for text in _wrapped(row, sizes, width)))
    ]
    return "\n".join(lines)


def _rows(number: int, proposal: Proposal) -> Iterator[_Row]:
    yield _Row(str(number), _call_text(proposal), printable(proposal.why))
    moved = moved_text(proposal.sources, proposal.targets, _MOST_NAMES)
    if proposal.certainty != "certain" and not spelled(proposal):
        yield _Row("", f"  {moved}")
    for rank, way in enumerate(proposal.alternatives, 1):
        yield _Row(f"{number}.{rank}", _call_text(way), printable(way.why))


def _call_text(proposal: Proposal) -> str:
    text = todo_text(proposal)
    if text is not None or not proposal.call.strip():
        return printable(text or proposal.kind)
    return printable(one_line(proposal.call, leave_out="ck."))


def _sizes(rows: Sequence[_Row], width: int | None) -> tuple[int, int]:
    """Columns of the number and of the call; 0 for the call: the reasons stand below."""
    number = max((len(row.number) for row in rows), default=0)
    calls = [len(row.call) for row in rows if row.number]
    if width is None:
        # One long call must not push all reasons away.
        return number, max((size for size in calls if size <= _WIDEST), default=_WIDEST)
    fits = max(calls, default=0) <= (width - number - 6) * 6 // 10
    return number, max(calls, default=0) if fits else 0


def _wrapped(row: _Row, sizes: tuple[int, int], width: int | None) -> Iterator[str]:
    number, call = sizes
    indent = " " * (number + 4)
    if not row.number or not call:
        calls = _cut(row.call, width, len(indent), "    ")
        whys = _cut(row.why, width, len(indent) + 2, "") if row.why else []
        yield f"  {row.number:<{number}}  {calls[0]}"
        yield from (f"{indent}{line}" for line in calls[1:])
        yield from (f"{indent}  {line}" for line in whys)
        return
    whys = _cut(row.why, width, number + call + 6, "")
    yield f"  {row.number:<{number}}  {row.call:<{call}}  {whys[0]}".rstrip()
    yield from (f"{indent}{'':<{call}}  {line}" for line in whys[1:])


def _cut(text: str, width: int | None, used: int, hanging: str) -> list[str]:
    if width is None:
        return [text]
    room = max(_NARROWEST, width - used)
    return textwrap.wrap(text, room, subsequent_indent=hanging, break_on_hyphens=False) or [""]
