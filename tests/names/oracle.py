"""A reader that shares nothing with `ckmigrate.names`: it tries every way to cut a name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Piece:
    kind: str
    key: str = ""
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "text":
            return self.key
        if self.kind == "choice":
            return "{" + ",".join(self.options) + "}"
        mark = {"one": "", "int": ":int", "deep": ":**"}[self.kind]
        return f"{{{self.key}{mark}}}"


Segment = tuple[Piece, ...]
Reading = tuple[tuple[int, str, str], ...]  # cost, key, value of each wildcard


def written(segments: list[Segment]) -> str:
    return ".".join("".join(map(str, segment)) for segment in segments)


def cuts(segment: Segment, word: str) -> Iterator[Reading]:
    if not segment:
        if not word:
            yield ()
        return
    first, rest = segment[0], segment[1:]
    for end in range(len(word) + 1):
        value = word[:end]
        for cost in costs(first, value):
            head: Reading = () if first.kind == "text" else ((cost, first.key, value),)
            yield from (head + tail for tail in cuts(rest, word[end:]))


def costs(piece: Piece, value: str) -> list[int]:
    match piece.kind:
        case "text":
            return [0] if value == piece.key else []
        case "choice":
            return [piece.options.index(value)] if value in piece.options else []
        case "int":
            good = value.isdigit() and str(int(value)) == value
            return [len(value)] if good else []
    return [len(value)] if value else []


def readings(segments: list[Segment], words: list[str]) -> Iterator[Reading]:
    if not segments:
        if not words:
            yield ()
        return
    first, rest = segments[0], segments[1:]
    if first and first[0].kind == "deep":
        for count in range(len(words) + 1):
            if words[:count] != [""]:
                head: Reading = ((count, first[0].key, ".".join(words[:count])),)
                yield from (head + tail for tail in readings(rest, words[count:]))
    elif words:
        for head in cuts(first, words[0]):
            yield from (head + tail for tail in readings(rest, words[1:]))


def oracle(segments: list[Segment], name: str) -> dict[str, str] | None:
    found: list[tuple[list[int], dict[str, str]]] = []
    for reading in readings(segments, name.split(".")):
        values: dict[str, str] = {}
        choices = itertools.count()
        for cost, key, value in reading:
            place, text = (f"{{{next(choices)}}}", str(cost)) if not key else (key, value)
            if values.setdefault(place, text) != text:
                break
        else:
            found.append(([cost for cost, _, _ in reading], values))
    return min(found, key=lambda entry: entry[0])[1] if found else None


TEXTS = st.sampled_from(["a", "b", "ab", "_", "0", "1"])
KEYS = st.sampled_from(["x", "y", "z"])
PIECES = st.one_of(
    TEXTS.map(lambda text: Piece("text", text)),
    KEYS.map(lambda key: Piece("one", key)),
    KEYS.map(lambda key: Piece("int", key)),
    st.lists(st.sampled_from(["", "a", "ab", "b", "0"]), min_size=2, max_size=3, unique=True).map(
        lambda options: Piece("choice", "", tuple(options))
    ),
)
INSIDE = (
    st.lists(PIECES, min_size=1, max_size=4)
    .map(tuple)
    .filter(lambda segment: not all("" in piece.options for piece in segment))
)
DEEP = st.sampled_from(["r", "s"]).map(lambda key: (Piece("deep", key),))
PATTERNS = st.lists(st.one_of(INSIDE, DEEP), min_size=1, max_size=4)
NAMES = st.text(alphabet="ab01_.", min_size=0, max_size=9)


def values_of(piece: Piece) -> st.SearchStrategy[str]:
    return {
        "text": st.just(piece.key),
        "choice": st.sampled_from(piece.options or ("",)),
        "one": st.text("ab_", min_size=1, max_size=2),
        "int": st.sampled_from(["0", "1", "10", "01"]),
    }[piece.kind]


@st.composite
def names_near(draw: st.DrawFn, segments: list[Segment]) -> str:
    """A name that fits the shape of a pattern, mostly; random names seldom match anything."""
    words: list[str] = []
    for segment in segments:
        if segment[0].kind == "deep":
            words += draw(st.lists(st.text("ab1", max_size=2), max_size=2))
            continue
        words.append("".join(draw(values_of(piece)) for piece in segment))
    return ".".join(words)
