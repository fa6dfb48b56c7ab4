"""The pieces that a pattern is made of, and reading them from its text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from ckmigrate.names.errors import bad_pattern

__all__ = ["INSIDE", "INTEGER", "TOKEN", "Part", "flatten", "read_segments"]

INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
INSIDE = re.compile(r"[^.]+")
TOKEN = re.compile(
    r"\{(?P<body>[^{}]*)\}|(?P<stars>\*+)|(?P<dot>\.)|(?P<brace>[{}])|(?P<text>[^{}*.]+)"
)
_CAPTURE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::(?P<type>.*)|(?P<shift>[+-][0-9]{1,9}))?")
_OPTION = re.compile(r"[\w-]*")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a pattern.

    Every segment begins with a dot, in patterns and in the names they are held against; so a
    `deep` part is either nothing or ".a.b", and no part needs to know its neighbours.
    """

    kind: Literal["text", "one", "int", "deep", "choice"]
    key: str = ""  # of its capture; "" for text
    text: str = ""
    options: tuple[str, ...] = ()
    shift: int | None = None


def read_segments(text: str) -> list[list[Part]]:
    """The parts of every segment, without the dots between them."""
    segments: list[list[Part]] = [[]]
    counts = Counter[str]()
    for token in TOKEN.finditer(text):
        at = token.start()
        if token["brace"]:
            raise bad_pattern(text, at, f"the brace {token['brace']!r} has no partner")
        if token["dot"]:
            _check_segment(segments[-1], text, at)
            segments.append([])
        elif token["text"]:
            segments[-1].append(Part("text", text=token["text"]))
        else:
            stars, body = token["stars"], token["body"]
            part = _read_stars(stars, text, at) if stars else _read_braces(body, text, at)
            sign = {"*": "*{}", "{": "{{{}}}"}.get(part.key)
            key = sign.format(counts[part.key]) if sign else part.key
            counts[part.key] += 1
            segments[-1].append(Part(part.kind, key, "", part.options, part.shift))
    _check_segment(segments[-1], text, len(text))
    return segments


def _read_stars(stars: str, text: str, at: int) -> Part:
    if len(stars) > 2:
        raise bad_pattern(text, at, f"{stars!r} is neither '*' nor '**'")
    return Part("one" if stars == "*" else "deep", "*")


def _read_braces(body: str, text: str, at: int) -> Part:
    if "," in body:
        options = tuple(body.split(","))
        if not all(map(_OPTION.fullmatch, options)):
            raise bad_pattern(text, at, f"{{{body}}}: an alternative is word characters or '-'")
        if len(set(options)) < len(options):
            raise bad_pattern(text, at, f"{{{body}}} lists one alternative twice")
        return Part("choice", "{", options=options)
    capture = _CAPTURE.fullmatch(body)
    if capture is None:
        raise bad_pattern(text, at, f"{{{body}}} is neither a capture nor a list of alternatives")
    if capture["shift"]:
        return Part("int", capture["name"], shift=int(capture["shift"]))
    match capture["type"]:
        case None:
            return Part("one", capture["name"])
        case "int":
            return Part("int", capture["name"])
        case "**":
            return Part("deep", capture["name"])
    raise bad_pattern(text, at, f"{{{body}}}: the type of a capture is 'int' or '**'")


def _check_segment(segment: list[Part], text: str, end: int) -> None:
    if all(part.kind == "choice" and "" in part.options for part in segment):
        raise bad_pattern(text, end, "the segment before this place is empty or can be")
    if len(segment) > 1 and any(part.kind == "deep" for part in segment):
        raise bad_pattern(text, end, "'**' must be the whole of the segment before this place")


def flatten(segments: list[list[Part]]) -> tuple[Part, ...]:
    """Put a dot before every segment and join neighbouring texts."""
    parts: list[Part] = []
    for segment in segments:
        dot = [] if segment[0].kind == "deep" else [Part("text", text=".")]
        for part in (*dot, *segment):
            if part.kind == "text" and parts and parts[-1].kind == "text":
                parts[-1] = Part("text", text=parts[-1].text + part.text)
            else:
                parts.append(part)
    return tuple(parts)
