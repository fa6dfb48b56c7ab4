"""The life of an entry as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckmigrate.fold import skeleton
from ckmigrate.lineage import Event, Life
from ckmigrate.report.escape import printable, shortened
from ckmigrate.revisions.script import Script

__all__ = ["folded", "life_data", "life_lines"]

_LONGEST_CALL = 72


def life_lines(life: Life, *, ahead: bool = False) -> list[str]:
    """First the life in one line, then an event a line; `ahead` where one looks forward."""
    return [_summary(life, ahead=ahead), *_lines(life, "  ", ahead=ahead)]


def _summary(life: Life, *, ahead: bool) -> str:
    arrow = " → " if ahead else " ← "
    parts = [printable(life.name)]
    parts += [f"{_number(event.script)} {event.operation}" for event in life.events]
    names = [event.name for event in life.events if event.name is not None]
    if life.end in ("start", "end") and names:
        parts.append(printable(names[-1]))
    if life.end == "several":
        inner = ", ".join(printable(branch.name) for branch in life.branches)
        parts.append(f"({inner})")
    return arrow.join(parts)


def _lines(life: Life, margin: str, *, ahead: bool) -> list[str]:
    lines = [f"{margin}{_event_text(event, ahead=ahead)}" for event in life.events]
    if life.end in ("start", "end"):
        name, spec = life.name, life.spec
        for event in life.events:
            if event.name is not None and event.spec is not None:
                name, spec = event.name, event.spec
        where = "is there at the end" if ahead else "was there before the first script"
        lines.append(f"{margin}'{printable(name)}' {spec} {where}")
    for branch in life.branches:
        lines.append(f"{margin}{'→' if ahead else '←'} {printable(branch.name)} {branch.spec}")
        lines += _lines(branch, f"{margin}    ", ahead=ahead)
    return lines


def _event_text(event: Event, *, ahead: bool) -> str:
    place = event.script.path.name + (f", line {event.line}" if event.line else "")
    call = shortened(f"{event.operation}({event.arguments})", _LONGEST_CALL)
    arrow = "→" if ahead else "←"
    other = "" if event.name is None else f"  {arrow} {printable(event.name)} {event.spec}"
    return f"{printable(place)}: {call}{other}"


def _number(script: Script) -> str:
    return script.id if script.number is None else f"{script.number:04d}"


def life_data(life: Life) -> dict[str, object]:
    """Everything about a life; branches are lives."""
    return {
        "name": life.name,
        "spec": str(life.spec),
        "events": [_event_data(event) for event in life.events],
        "end": life.end,
        "branches": [life_data(branch) for branch in life.branches],
    }


def _event_data(event: Event) -> Mapping[str, object]:
    return {
        "revision": event.script.id,
        "file": str(event.script.path),
        "line": event.line,
        "operation": event.operation,
        "arguments": event.arguments,
        "name": event.name,
        "spec": None if event.spec is None else str(event.spec),
    }


def folded(lives: Sequence[Life], *, ahead: bool) -> dict[str, list[Life]]:
    """Lives that differ in numbers only, under the text of the first of them."""
    groups: dict[str, list[Life]] = {}
    for life in lives:
        lines = life_lines(life, ahead=ahead)
        key = "\n".join(" ".join(map(skeleton, line.split(" "))) for line in lines)
        groups.setdefault(key, []).append(life)
    return {"\n".join(life_lines(found[0], ahead=ahead)): found for found in groups.values()}
