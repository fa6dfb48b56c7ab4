"""Filling in a target pattern: the name that it stands for, given what a source captured."""

from __future__ import annotations

from ckmigrate.names.compiling import compile_pattern
from ckmigrate.names.errors import bad_value, described, no_capture, unfit
from ckmigrate.names.parts import INTEGER, Part
from ckmigrate.names.pattern import Captures, Pattern, PatternLike

__all__ = ["check_writable", "fill", "substitute"]


def substitute(pattern: PatternLike, captures: Captures) -> str:
    """The name that a target pattern stands for, given the captures of a source.

    CKM503: a value that is not the integer a capture needs, or a shift below zero.
    CKM504: a capture, an anonymous wildcard or alternatives that the source does not have.
    """
    target = compile_pattern(pattern)
    check_writable(target)
    for key in target.keys:
        if key not in captures:
            raise unfit(target.text, no_capture(key, captures))
    for key in target.surplus:
        if key in captures:
            raise unfit(target.text, f"it leaves out {described(key)} and not those before")
    return fill(target, captures)


def check_writable(target: Pattern) -> None:
    if target.regex is not None:
        raise unfit(target.text, "a regular expression matches names and cannot write one")


def fill(target: Pattern, captures: Captures) -> str:
    """`substitute` without the checks that are the same for every name."""
    name = "".join([_filled(part, captures, target) for part in target.parts])
    if name in ("", "."):
        raise bad_value(target.text, "the captures leave an empty name")
    return name.removeprefix(".")


def _filled(part: Part, captures: Captures, target: Pattern) -> str:
    if part.kind == "text":
        return part.text
    value = captures[part.key]
    match part.kind:
        case "int":
            return _shifted(part, value, target)
        case "choice":
            if int(value) >= len(part.options):
                raise unfit(target.text, f"there is no alternative number {int(value) + 1}")
            return part.options[int(value)]
        case "deep":
            return f".{value}" if value else ""
    if part.key.startswith("*") and "." in value:
        raise unfit(target.text, f"'*' is one segment and the source has {value!r}; write '**'")
    if not value:
        raise bad_value(target.text, f"the capture {part.key!r} is empty")
    return value


def _shifted(part: Part, value: str, target: Pattern) -> str:
    if not INTEGER.fullmatch(value):
        raise bad_value(
            target.text,
            f"the capture {part.key!r} is {value!r}, not a number without leading zeros",
        )
    number = int(value) + (part.shift or 0)
    if number < 0:
        raise bad_value(target.text, f"{part.key}{part.shift:+} is negative for {part.key}={value}")
    return str(number)
