"""The names that a user may have meant, for error messages."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Collection, Iterable

from ckmigrate.errors import MigrationError
from ckmigrate.fold import skeleton
from ckmigrate.names.compiling import compile_pattern
from ckmigrate.names.parts import Part, read_segments
from ckmigrate.names.pattern import collection, scan

__all__ = ["nearest", "nothing_matches"]

_DIGITS = re.compile(r"[0-9]+")


def nearest(text: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The existing names most like a name or pattern, best first, one for each set of layers.

    Names that only have a prefix more come before all others. Parts that `**` stands for are left
    out of the comparison. For error messages.
    """
    names = collection(names)
    deeper = _deeper(text, names)[:limit]
    like = [name for name in _most_alike(text, names, limit) if name not in deeper]
    return (*deeper, *like[: limit - len(deeper)])


def _deeper(text: str, names: Collection[str]) -> tuple[str, ...]:
    """One name of each set of layers that the text fits behind a prefix."""
    try:
        found = {skeleton(name): name for name, _ in scan(compile_pattern(f"**.{text}"), names)}
    except MigrationError:
        return ()
    return tuple(found.values())


def _most_alike(text: str, names: Collection[str], limit: int) -> tuple[str, ...]:
    from difflib import SequenceMatcher  # only a message needs it

    wanted, head, tail = _outline(text)
    shapes: dict[str, list[str]] = {}
    for name in names:
        shapes.setdefault(_compared(skeleton(name), head, tail), []).append(name)
    pairs = set(itertools.pairwise(wanted))
    likely = heapq.nlargest(60, shapes, key=lambda shape: _overlap(pairs, shape))
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(wanted)
    scored: list[tuple[float, str]] = []
    for shape in likely:
        matcher.set_seq1(shape)
        scored.append((matcher.ratio(), shape))
    best = [shape for score, shape in heapq.nlargest(limit, scored) if score >= 0.5]
    return tuple(_closest(text, shapes[shape]) for shape in best)


def nothing_matches(text: str, known: Collection[str]) -> MigrationError:
    """CKM505 with the nearest names."""
    near = nearest(text, known)
    some = ", ".join(map(repr, near or itertools.islice(known, 3)))
    has = f"; {'the nearest' if near else 'the first'}: {some}" if some else ""
    return MigrationError(
        "CKM505",
        f"no entry matches {text!r}",
        why=f"the checkpoint has {len(known)} entries{has}",
        fix="Correct the pattern, or say optional=True if some checkpoints lack these entries.",
    )


def _outline(text: str) -> tuple[str, int | None, int]:
    """A pattern as a comparable shape, and how many segments it fixes before and after `**`."""
    try:
        segments = read_segments(text)
    except MigrationError:
        return skeleton(text), None, 0
    deep = [place for place, segment in enumerate(segments) if segment[0].kind == "deep"]
    head = deep[0] if deep else None
    tail = len(segments) - deep[-1] - 1 if deep else 0
    kept = segments if head is None else segments[:head] + segments[len(segments) - tail :]
    return skeleton(".".join("".join(map(_sketch, segment)) for segment in kept)), head, tail


def _sketch(part: Part) -> str:
    if part.kind == "text":
        return part.text
    return part.options[0] if part.options else "#"


def _compared(shape: str, head: int | None, tail: int) -> str:
    segments = shape.split(".")
    if head is None or head + tail >= len(segments):
        return shape
    return ".".join(segments[:head] + segments[len(segments) - tail :])


def _overlap(wanted: set[tuple[str, str]], shape: str) -> float:
    """How many neighbouring characters two texts share: cheap, and blind to their order."""
    theirs = set(itertools.pairwise(shape))
    return len(wanted & theirs) / (len(wanted) + len(theirs) + 1)


def _closest(text: str, names: list[str]) -> str:
    numbers = [int(run[:18]) for run in _DIGITS.findall(text)]

    def distance(name: str) -> list[int]:
        theirs = [int(run[:18]) for run in _DIGITS.findall(name)]
        return [abs(one - other) for one, other in zip(numbers, theirs, strict=False)]

    return min(names, key=distance)
