"""The errors of patterns and of what is done with them, CKM501 to CKM508."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ckmigrate.errors import MigrationError

__all__ = [
    "bad_pattern",
    "bad_value",
    "collision",
    "described",
    "hole",
    "listed",
    "no_capture",
    "no_worker",
    "too_slow",
    "unfit",
]

_MOST_DETAILS = 20


def bad_pattern(text: str, at: int, why: str) -> MigrationError:
    return MigrationError(
        "CKM501",
        f"{text!r} is not a name pattern, at character {at + 1}",
        why=why,
        fix="Segments stand between dots: text, {i}, {i:int}, *, **, {rest:**}, {q,k,v}; on the "
        "target side also {i+1}. For anything else, and for names with such characters, pass "
        "re.compile(…).",
    )


def too_slow(pattern: str, name: str, why: str) -> MigrationError:
    return MigrationError(
        "CKM502",
        f"matching {pattern!r} against {_shortened(name)!r} was given up",
        why=why,
        fix="Use fewer wildcards or repetitions side by side, or write plain names.",
    )


def no_worker(pattern: str, error: OSError) -> MigrationError:
    return MigrationError(
        "CKM502",
        f"the regular expression {pattern!r} cannot be run with a time limit",
        why=f"starting {sys.executable!r} failed: {error}",
        fix="Write it as a name pattern, which needs no other process.",
    )


def bad_value(target: str, why: str) -> MigrationError:
    return MigrationError(
        "CKM503",
        f"{target!r} cannot be filled in",
        why=why,
        fix="Capture numbers as {i:int} on the source side, and shift only as far as names allow.",
    )


def unfit(target: str, why: str) -> MigrationError:
    return MigrationError(
        "CKM504",
        f"{target!r} does not fit what it is paired with",
        why=why,
        fix="Name the captures on both sides, such as '{a}.x.{b}' and 'y.{a}.{b}'.",
    )


def no_capture(key: str, known: Iterable[str]) -> str:
    has = ", ".join(map(described, known)) or "nothing"
    return f"it uses {described(key)}; the source captures {has}"


def described(key: str) -> str:
    if key.startswith("*"):
        return f"anonymous wildcard {int(key[1:]) + 1}"
    return f"alternatives {int(key[1:-1]) + 1}" if key.startswith("{") else f"{{{key}}}"


def collision(problems: list[str]) -> MigrationError:
    return listed(
        "CKM506",
        problems,
        why="every entry needs a name of its own, and nothing is overwritten",
        fix="Keep in the new names what tells the entries apart, or rename or drop one before.",
    )


def hole(target_name: str, problem: str, key: str) -> MigrationError:
    return MigrationError(
        "CKM508",
        f"the entries for {target_name!r} cannot be numbered: {problem}",
        why=f"{described(key)} is the index and must be 0, 1, 2, … without holes",
        fix="Rename the entries so that the index has no holes, or narrow the pattern.",
    )


def listed(code: str, problems: list[str], *, why: str, fix: str) -> MigrationError:
    """The first problem as the headline, the others below it."""
    details = tuple(problems[1:_MOST_DETAILS])
    rest = len(problems) - _MOST_DETAILS
    if rest > 0:
        details += (f"and {rest} more",)
    return MigrationError(code, problems[0], why=why, fix=fix, details=details)


def _shortened(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:100]}… ({len(name)} characters)"
