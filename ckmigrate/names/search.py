"""The search that reads a name where a flat regular expression could take too long."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from ckmigrate.names.errors import too_slow
from ckmigrate.names.parts import INSIDE, INTEGER, Part

__all__ = ["search_reader"]

_MOST_STEPS = 1_000_000  # about half a second for one name


def search_reader(text: str, parts: tuple[Part, ...]) -> Callable[[str], dict[str, str] | None]:
    """The function that reads one name by the parts of the pattern `text`.

    It raises MigrationError CKM502 for a name that could be read in too many ways.
    """
    # What is captured matters later on only for captures that stand on both sides of a place.
    live = [
        tuple(
            {part.key for part in parts[:place] if part.key}
            & {part.key for part in parts[place:] if part.key}
        )
        for place in range(len(parts) + 1)
    ]

    def read(name: str) -> dict[str, str] | None:
        try:
            return _search(parts, live, "." + name)
        except _OutOfStepsError:
            why = f"more than {_MOST_STEPS} ways to read it were tried"
            raise too_slow(text, name, why) from None

    return read


class _OutOfStepsError(Exception):
    """A search was given up."""


def _search(
    parts: tuple[Part, ...], live: list[tuple[str, ...]], text: str
) -> dict[str, str] | None:
    """The first reading of `text`, depth first; a place that failed once is not tried again."""
    bound: dict[str, str] = {}  # text parts capture "" under "", which agrees with itself
    dead: set[tuple[object, ...]] = set()
    steps = itertools.count()

    def fits(place: int, at: int) -> bool:
        if place == len(parts):
            return at == len(text)
        state = (place, at, *(bound[key] for key in live[place]))
        if state in dead:
            return False
        key = parts[place].key
        fresh = key not in bound
        for end, value in _ends(parts[place], text, at):
            if next(steps) > _MOST_STEPS:
                raise _OutOfStepsError
            if not fresh and bound[key] != value:
                continue
            bound[key] = value
            if fits(place + 1, end):
                return True
            if fresh:
                del bound[key]
        dead.add(state)
        return False

    if not fits(0, 0):
        return None
    bound.pop("", None)
    return bound


def _ends(part: Part, text: str, at: int) -> Iterator[tuple[int, str]]:
    """Where a part that begins at `at` can end and what it captures there, best first."""
    match part.kind:
        case "text":
            if text.startswith(part.text, at):
                yield at + len(part.text), ""
        case "choice":
            for position, option in enumerate(part.options):
                if text.startswith(option, at):
                    yield at + len(option), str(position)
        case "deep":
            yield from _deep_ends(text, at)
        case _:
            run = (INTEGER if part.kind == "int" else INSIDE).match(text, at)
            for end in range(at + 1, run.end() + 1 if run else 0):
                yield end, text[at:end]


def _deep_ends(text: str, at: int) -> Iterator[tuple[int, str]]:
    """No segments, one, two, …; one empty segment alone could not be told from none."""
    yield at, ""
    end = at
    while text.startswith(".", end):
        end = text.find(".", end + 1)
        end = len(text) if end < 0 else end
        if end > at + 1:
            yield end, text[at + 1 : end]
