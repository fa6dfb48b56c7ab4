"""Name patterns: the only place that reads them, matches them and fills them in.

A pattern describes whole names, segment by segment between dots; nothing is a substring match.

    transformer.**                   any number of whole segments, also none; named: {rest:**}
    blocks.{i}.attn.{p}              {i} and {p}: one or more characters inside one segment
    block{i:int}_w                   digits only, without leading zeros (18 digits at most)
    *.running_mean                   like {i}, without a name
    attn.{q,k,v}.weight              ordered alternatives: word characters and '-', also nothing
    blocks.{i+1}.weight              on the target side: an integer capture, shifted

A capture that stands twice in one pattern is the same text both times. Where a name can be read in
several ways, the leftmost wildcard takes as little as possible and the leftmost alternative is the
one listed first, as far as the rest still fits: `{a}_{b}` reads `x_y_z` as a=x, b=y_z.

Captures map text to text: named ones under their name; the n-th anonymous wildcard (from zero)
under "*n"; the n-th group of alternatives under "{n}", as the position of the one that was found.
That is how the two sides of a rename are paired. `**` over no segments at all captures "".
A name with a pattern character (one of `{ } *`), an empty segment, or none, needs a `re.Pattern`.

A compiled `re.Pattern` must match the full name; its named groups are the captures. Python cannot
interrupt a regular expression, so it runs in a child process, half a second of processor time per
name, and is refused (CKM502) when that is not enough.
"""

from __future__ import annotations

import heapq
import itertools
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, TypeAlias

from ckmigrate.errors import MigrationError
from ckmigrate.fold import skeleton

__all__ = [
    "Captures",
    "Group",
    "Match",
    "Pair",
    "Pattern",
    "PatternLike",
    "StackGroup",
    "compile_pattern",
    "expand",
    "groups",
    "natural_key",
    "nearest",
    "pair",
    "select",
    "stack_groups",
    "substitute",
]

Captures: TypeAlias = Mapping[str, str]

_MOST_WILDCARDS = 64  # bounds the depth of the search
_MOST_STEPS = 1_000_000  # about half a second for one name
_LONGEST_NAME = 2_000  # where a name can be read in several ways, the work grows with its square
_MOST_DETAILS = 20
_REGEX_SECONDS = 0.5
_REGEX_WALL_SECONDS = 20.0  # for all names together; and where there is no processor timer

_IS_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
_IS_INSIDE = re.compile(r"[^.]+")
_DIGITS = re.compile(r"[0-9]+")
_TOKEN = re.compile(
    r"\{(?P<body>[^{}]*)\}|(?P<stars>\*+)|(?P<dot>\.)|(?P<brace>[{}])|(?P<text>[^{}*.]+)"
)
_CAPTURE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::(?P<type>.*)|(?P<shift>[+-][0-9]{1,9}))?")
_OPTION = re.compile(r"[\w-]*")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a pattern.

    Every segment begins with a dot, in patterns and in the names they are held against; so a
    `deep` part is either nothing or ".a.b", and no part needs to know its neighbours.
    """

    kind: Literal["text", "one", "int", "deep", "choice"]
    key: str = ""  # of its capture; "" for text
    text: str = ""
    options: tuple[str, ...] = ()
    shift: int | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled name pattern.

    captures      the named captures, in order of appearance
    keys          every key of what `match` returns, in order: also "*0" and "{0}"
    alternatives  the groups of alternatives, in order
    is_literal    the pattern is one plain name
    """

    text: str
    captures: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...]
    is_literal: bool
    keys: tuple[str, ...]
    parts: tuple[_Part, ...] = field(compare=False, repr=False)
    fast: re.Pattern[str] | None = field(compare=False, repr=False)
    ambiguity: int = field(compare=False, repr=False)
    surplus: tuple[str, ...] = field(compare=False, repr=False)
    regex: re.Pattern[str] | None = None

    def match(self, name: str) -> Captures | None:
        """The captures of `name`, or None. A `re.Pattern` costs a process: prefer `select`."""
        return next((captures for _, captures in _scan(self, (name,))), None)

    def __str__(self) -> str:
        return self.text


PatternLike: TypeAlias = str | re.Pattern[str] | Pattern


@dataclass(frozen=True, slots=True)
class Match:
    """One existing name and what the pattern captured from it."""

    name: str
    captures: Captures


@dataclass(frozen=True, slots=True)
class Pair:
    """One entry of a rename: an existing name and its new one."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Group:
    """Names that belong together, one per member pattern and in the order of the members."""

    captures: Captures
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StackGroup:
    """Names that become one, with their indices 0 … n-1 in ascending order."""

    target_name: str
    members: tuple[tuple[int, str], ...]


# Reading a pattern


def compile_pattern(text: PatternLike) -> Pattern:
    """Read a pattern; a compiled one is returned as it is. MigrationError CKM501 if malformed."""
    if isinstance(text, Pattern):
        return text
    if isinstance(text, str):
        return _compile_text(text)
    if isinstance(text, re.Pattern) and isinstance(text.pattern, str):
        groups_in_order = tuple(text.groupindex)
        return Pattern(
            text.pattern, groups_in_order, (), False, groups_in_order, (), None, 0, (), text
        )
    raise MigrationError(
        "CKM501",
        f"{text!r} is not a name pattern",
        why="a pattern is text or a compiled re.Pattern of text",
        fix="Write the pattern as a string, such as 'blocks.{i}.weight'.",
    )


def expand(pattern: str) -> tuple[str, ...]:
    """Write out the one group of alternatives: `a.{q,k}.w` is `a.q.w`, `a.k.w`; else itself.

    MigrationError CKM501 for a malformed pattern or a second group.
    """
    if not isinstance(pattern, str):
        raise _unfit(compile_pattern(pattern), "only a pattern in text lists alternatives")
    compiled = compile_pattern(pattern)
    if len(compiled.alternatives) > 1:
        raise _bad_pattern(pattern, 0, "only one group of alternatives can be written out here")
    if not compiled.alternatives:
        return (pattern,)
    group = next(found for found in _TOKEN.finditer(pattern) if "," in (found["body"] or ""))
    before, after = pattern[: group.start()], pattern[group.end() :]
    return tuple(f"{before}{option}{after}" for option in compiled.alternatives[0])


@lru_cache(maxsize=4096)
def _compile_text(text: str) -> Pattern:
    segments = _read(text)
    parts = _flatten(segments)
    keyed = [part for part in parts if part.key]
    if len(keyed) > _MOST_WILDCARDS:
        raise _bad_pattern(text, 0, f"it has more than {_MOST_WILDCARDS} wildcards")
    keys = tuple(dict.fromkeys(part.key for part in keyed))
    free = [sum(part.kind != "text" for part in segment) for segment in segments]
    deep = sum(part.kind == "deep" for part in parts)
    ambiguity = sum(max(0, count - 1) for count in (*free, deep))
    return Pattern(
        text=text,
        captures=tuple(key for key in keys if key[0] not in "*{"),
        alternatives=tuple(part.options for part in keyed if part.kind == "choice"),
        is_literal=not keyed,
        keys=keys,
        parts=parts,
        fast=_fast_regex(parts, lazy=ambiguity > 0) if ambiguity < 2 else None,
        ambiguity=ambiguity,
        surplus=_surplus(keys),
    )


def _surplus(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Keys that no source may have: one more of each unnamed sort that a target uses."""
    stars = sum(key.startswith("*") for key in keys)
    choices = sum(key.startswith("{") for key in keys)
    return (f"*{stars}",) * bool(stars) + (f"{{{choices}}}",) * bool(choices)


def _read(text: str) -> list[list[_Part]]:
    """The parts of every segment, without the dots between them."""
    segments: list[list[_Part]] = [[]]
    counts = Counter[str]()
    for token in _TOKEN.finditer(text):
        at = token.start()
        if token["brace"]:
            raise _bad_pattern(text, at, f"the brace {token['brace']!r} has no partner")
        if token["dot"]:
            _check_segment(segments[-1], text, at)
            segments.append([])
        elif token["text"]:
            segments[-1].append(_Part("text", text=token["text"]))
        else:
            stars, body = token["stars"], token["body"]
            part = _read_stars(stars, text, at) if stars else _read_braces(body, text, at)
            sign = {"*": "*{}", "{": "{{{}}}"}.get(part.key)
            key = sign.format(counts[part.key]) if sign else part.key
            counts[part.key] += 1
            segments[-1].append(_Part(part.kind, key, "", part.options, part.shift))
    _check_segment(segments[-1], text, len(text))
    return segments


def _read_stars(stars: str, text: str, at: int) -> _Part:
    if len(stars) > 2:
        raise _bad_pattern(text, at, f"{stars!r} is neither '*' nor '**'")
    return _Part("one" if stars == "*" else "deep", "*")


def _read_braces(body: str, text: str, at: int) -> _Part:
    if "," in body:
        options = tuple(body.split(","))
        if not all(map(_OPTION.fullmatch, options)):
            raise _bad_pattern(text, at, f"{{{body}}}: an alternative is word characters or '-'")
        if len(set(options)) < len(options):
            raise _bad_pattern(text, at, f"{{{body}}} lists one alternative twice")
        return _Part("choice", "{", options=options)
    capture = _CAPTURE.fullmatch(body)
    if capture is None:
        raise _bad_pattern(text, at, f"{{{body}}} is neither a capture nor a list of alternatives")
    if capture["shift"]:
        return _Part("int", capture["name"], shift=int(capture["shift"]))
    match capture["type"]:
        case None:
            return _Part("one", capture["name"])
        case "int":
            return _Part("int", capture["name"])
        case "**":
            return _Part("deep", capture["name"])
    raise _bad_pattern(text, at, f"{{{body}}}: the type of a capture is 'int' or '**'")


def _check_segment(segment: list[_Part], text: str, end: int) -> None:
    if all(part.kind == "choice" and "" in part.options for part in segment):
        raise _bad_pattern(text, end, "the segment before this place is empty or can be")
    if len(segment) > 1 and any(part.kind == "deep" for part in segment):
        raise _bad_pattern(text, end, "'**' must be the whole of the segment before this place")


def _flatten(segments: list[list[_Part]]) -> tuple[_Part, ...]:
    """Put a dot before every segment and join neighbouring texts."""
    parts: list[_Part] = []
    for segment in segments:
        dot = [] if segment[0].kind == "deep" else [_Part("text", text=".")]
        for part in (*dot, *segment):
            if part.kind == "text" and parts and parts[-1].kind == "text":
                parts[-1] = _Part("text", text=parts[-1].text + part.text)
            else:
                parts.append(part)
    return tuple(parts)


def _fast_regex(parts: tuple[_Part, ...], *, lazy: bool) -> re.Pattern[str] | None:
    """A flat expression with at most one free choice: its time is at most quadratic.

    Lazy quantifiers try in the same order as `_search`. None where a repeated capture cannot be a
    back reference, or where the pattern is a target only.
    """
    mark = "?" if lazy else ""
    written: dict[str, _Part] = {}
    pieces: list[str] = []
    for part in parts:
        if part.shift is not None or (part.key in written and written[part.key] != part):
            return None
        if part.key in written:
            if part.kind == "deep":
                return None
            pieces.append(rf"(?:\{list(written).index(part.key) + 1})")
            continue
        pieces.append(
            {
                "text": re.escape(part.text),
                "one": f"([^.]+{mark})",
                "int": f"(0|[1-9][0-9]{{0,17}}{mark})",
                "deep": rf"(?:\.(.+{mark}))?{mark}",
                "choice": f"({'|'.join(map(re.escape, part.options))})",
            }[part.kind]
        )
        if part.key:
            written[part.key] = part
    return re.compile("".join(pieces), re.DOTALL)


# Matching


def select(pattern: PatternLike, names: Iterable[str]) -> tuple[Match, ...]:
    """Every name that matches, ordered by the captures from left to right.

    Numbers inside captures sort as numbers, alternatives in the order of the pattern.
    """
    found = list(_scan(compile_pattern(pattern), _collection(names)))
    found.sort(key=lambda entry: _order(entry[1].values()))
    return tuple(Match(name, captures) for name, captures in found)


def natural_key(name: str) -> tuple[str, str]:
    """A sort key by which `layers.2` comes before `layers.10`, and `a.b` before `a-b`."""
    return _natural_text(name), name


@lru_cache(maxsize=1 << 16)
def _natural_text(name: str) -> str:
    return _DIGITS.sub(lambda run: f"{len(run[0]):03}{run[0]}", name.replace(".", "\0"))


def _order(values: Iterable[str]) -> list[tuple[str, str]]:
    return [natural_key(value) for value in values]


def _collection(names: Iterable[str]) -> Collection[str]:
    return names if isinstance(names, Collection) else tuple(names)


def _scan(pattern: Pattern, names: Collection[str]) -> Iterator[tuple[str, Captures]]:
    """Matching names in their own order, with their captures in the order of the pattern."""
    if pattern.regex is not None:
        yield from _scan_regex(pattern.regex, list(names)) if names else ()
    elif pattern.is_literal:
        yield from ((name, MappingProxyType({})) for name in (pattern.text,) if name in names)
    else:
        read = _reader(pattern)
        first, last = pattern.parts[0].text[1:], pattern.parts[-1].text.removeprefix(".")
        for name in [name for name in names if name.startswith(first) and name.endswith(last)]:
            captures = read(name)
            if captures is not None:
                yield name, MappingProxyType(captures)


def _reader(pattern: Pattern) -> Callable[[str], dict[str, str] | None]:
    """The function that reads one name; MigrationError CKM501 for a pattern with a shift."""
    if any(part.shift is not None for part in pattern.parts):
        raise _bad_pattern(pattern.text, 0, "a shift such as {i+1} belongs to the target side")
    bounded = pattern.ambiguity == 0 and pattern.fast is not None
    run = _search_reader(pattern) if pattern.fast is None else _fast_reader(pattern, pattern.fast)

    def read(name: str) -> dict[str, str] | None:
        if not bounded and len(name) > _LONGEST_NAME:
            raise _too_slow(pattern.text, name, f"the name has {len(name)} characters")
        return run(name)

    return run if bounded else read


def _fast_reader(pattern: Pattern, fast: re.Pattern[str]) -> Callable[[str], dict[str, str] | None]:
    keys, fullmatch = pattern.keys, fast.fullmatch
    choices = [(part.key, part.options) for part in pattern.parts if part.kind == "choice"]

    def read(name: str) -> dict[str, str] | None:
        found = fullmatch("." + name)
        if found is None:
            return None
        captures = dict(zip(keys, found.groups(""), strict=True))
        for key, options in choices:
            captures[key] = str(options.index(captures[key]))
        return captures

    return read


def _search_reader(pattern: Pattern) -> Callable[[str], dict[str, str] | None]:
    parts = pattern.parts
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
            raise _too_slow(pattern.text, name, why) from None

    return read


class _OutOfStepsError(Exception):
    """A search was given up."""


def _search(
    parts: tuple[_Part, ...], live: list[tuple[str, ...]], text: str
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


def _ends(part: _Part, text: str, at: int) -> Iterator[tuple[int, str]]:
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
            run = (_IS_INTEGER if part.kind == "int" else _IS_INSIDE).match(text, at)
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


_WORKER = """
import json, re, signal, sys
source, flags, names, seconds = json.load(sys.stdin)
regex = re.compile(source, flags)
timer = getattr(signal, "setitimer", None)
if timer:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
for name in names:
    if timer:
        timer(signal.ITIMER_PROF, seconds)
    found = regex.fullmatch(name)
    print(json.dumps(found and found.groupdict("")), flush=True)
"""


def _scan_regex(regex: re.Pattern[str], names: list[str]) -> list[tuple[str, Captures]]:
    """Run a user's expression where it can be stopped; one line of answer per name."""
    order = json.dumps([regex.pattern, int(regex.flags & ~re.DEBUG), names, _REGEX_SECONDS])
    command = [sys.executable, "-I", "-S", "-c", _WORKER]
    try:
        done = subprocess.run(
            command,
            input=order.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_REGEX_WALL_SECONDS,
            check=False,
        )
        answer, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as expired:
        answer, code = expired.stdout or b"", None
    except OSError as error:
        raise _no_worker(regex.pattern, error) from error
    lines = answer.splitlines()
    if len(lines) < len(names):
        slow = code is None or code == -getattr(signal, "SIGPROF", 0)
        why = "it ran out of time" if slow else f"its process ended with {code}"
        raise _too_slow(regex.pattern, names[len(lines)], why)
    found = [json.loads(line) for line in lines]
    return [
        (name, MappingProxyType(captures))
        for name, captures in zip(names, found, strict=True)
        if captures is not None
    ]


# Filling in


def substitute(pattern: PatternLike, captures: Captures) -> str:
    """The name that a target pattern stands for, given the captures of a source.

    CKM503: a value that is not the integer a capture needs, or a shift below zero.
    CKM504: a capture, an anonymous wildcard or alternatives that the source does not have.
    """
    target = compile_pattern(pattern)
    _check_writable(target)
    for key in target.keys:
        if key not in captures:
            raise _unfit(target, _no_capture(key, captures))
    for key in target.surplus:
        if key in captures:
            raise _unfit(target, f"it leaves out {_described(key)} and not those before")
    return _fill(target, captures)


def _check_writable(target: Pattern) -> None:
    if target.regex is not None:
        raise _unfit(target, "a regular expression matches names and cannot write one")


def _fill(target: Pattern, captures: Captures) -> str:
    """`substitute` without the checks that are the same for every name."""
    name = "".join([_filled(part, captures, target) for part in target.parts])
    if name in ("", "."):
        raise _bad_value(target, "the captures leave an empty name")
    return name.removeprefix(".")


def _filled(part: _Part, captures: Captures, target: Pattern) -> str:
    if part.kind == "text":
        return part.text
    value = captures[part.key]
    match part.kind:
        case "int":
            return _shifted(part, value, target)
        case "choice":
            if int(value) >= len(part.options):
                raise _unfit(target, f"there is no alternative number {int(value) + 1}")
            return part.options[int(value)]
        case "deep":
            return f".{value}" if value else ""
    if part.key.startswith("*") and "." in value:
        raise _unfit(target, f"'*' is one segment and the source has {value!r}; write '**'")
    if not value:
        raise _bad_value(target, f"the capture {part.key!r} is empty")
    return value


def _shifted(part: _Part, value: str, target: Pattern) -> str:
    if not _IS_INTEGER.fullmatch(value):
        raise _bad_value(
            target, f"the capture {part.key!r} is {value!r}, not a number without leading zeros"
        )
    number = int(value) + (part.shift or 0)
    if number < 0:
        raise _bad_value(target, f"{part.key}{part.shift:+} is negative for {part.key}={value}")
    return str(number)


# Renaming


def pair(
    old: PatternLike, new: PatternLike, names: Iterable[str], *, optional: bool = False
) -> tuple[Pair, ...]:
    """Existing and new names of one simultaneous rename, in the order of `names`.

    No new name is matched again, so swaps (`{a,b}` to `{b,a}`) and shifts (`{i}` to `{i+1}`) are
    complete renames. CKM504: the sides do not fit. CKM505: nothing matches, unless `optional`.
    CKM506: two entries would get one name; every such collision is listed.
    """
    source, target = compile_pattern(old), compile_pattern(new)
    _check_sides(source, target)
    known = _collection(names)
    pairs = tuple(Pair(name, _fill(target, found)) for name, found in _scan(source, known))
    if not pairs and not optional:
        raise _nothing_matches(source.text, known)
    _check_bijection(pairs, known)
    return pairs


def _check_sides(source: Pattern, target: Pattern) -> None:
    """Everything about two patterns that needs no names."""
    _check_writable(target)
    unknown = [key for key in target.captures if key not in source.captures]
    if unknown:
        raise _unfit(target, _no_capture(unknown[0], source.keys))
    _check_count(source, target, "anonymous wildcards", *map(_anonymous, (source, target)))
    _check_count(source, target, "groups of alternatives", source.alternatives, target.alternatives)
    for ours, theirs in zip(source.alternatives, target.alternatives, strict=False):
        if len(ours) != len(theirs):
            raise _unfit(target, f"it lists {len(theirs)} alternatives, the source {len(ours)}")
    for mine, other in zip(_anonymous(source), _anonymous(target), strict=False):
        if (mine, other) == ("deep", "one"):
            raise _unfit(target, f"'*' is one segment where {source.text!r} has '**'")


def _anonymous(pattern: Pattern) -> tuple[str, ...]:
    return tuple(part.kind for part in pattern.parts if part.key.startswith("*"))


def _check_count(
    source: Pattern, target: Pattern, noun: str, ours: Sequence[object], theirs: Sequence[object]
) -> None:
    """They pair in order; leaving out some but not all would be a guess which."""
    if theirs and len(theirs) != len(ours):
        raise _unfit(target, f"it has {len(theirs)} {noun}, {source.text!r} has {len(ours)}")


def _check_bijection(pairs: tuple[Pair, ...], known: Collection[str]) -> None:
    existing = known if isinstance(known, Set | Mapping) else frozenset(known)
    renamed = {entry.old for entry in pairs}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for entry in pairs:
        first = sources.setdefault(entry.new, entry.old)
        if first != entry.old:
            problems.append(f"{first!r} and {entry.old!r} would both become {entry.new!r}")
        elif entry.new in existing and entry.new not in renamed:
            problems.append(f"{entry.old!r} would become {entry.new!r}, which already exists")
    if problems:
        raise _collision(problems)


# Grouping


def groups(
    members: Sequence[PatternLike], names: Iterable[str], *, optional: bool = False
) -> tuple[Group, ...]:
    """Join the matches of every member pattern by equal captures, in the order of the captures.

    CKM504: the members capture different things. CKM505: nothing matches, unless `optional`.
    CKM506: two names for one member of a group. CKM507: a group lacks a member.
    """
    patterns = [compile_pattern(member) for member in members]
    keys = patterns[0].keys if patterns else ()
    for pattern in patterns:
        if set(pattern.keys) != set(keys):
            ours, theirs = (", ".join(map(_described, some)) for some in (pattern.keys, keys))
            why = f"it captures {ours or 'nothing'}, {patterns[0].text!r} captures {theirs}"
            raise _unfit(pattern, why)
    known = _collection(names)
    joined: dict[tuple[str, ...], dict[int, str]] = {}
    for place, pattern in enumerate(patterns):
        for name, found in _scan(pattern, known):
            group = joined.setdefault(tuple(found[key] for key in keys), {})
            if group.setdefault(place, name) != name:
                raise _collision([f"{group[place]!r} and {name!r} are one member of one group"])
    if not joined and not optional:
        raise _nothing_matches(patterns[0].text if patterns else "", known)
    _check_complete(patterns, keys, joined)
    return tuple(
        Group(
            MappingProxyType(dict(zip(keys, values, strict=True))),
            tuple(joined[values][place] for place in range(len(patterns))),
        )
        for values in sorted(joined, key=_order)
    )


def _check_complete(
    patterns: list[Pattern],
    keys: tuple[str, ...],
    joined: Mapping[tuple[str, ...], Mapping[int, str]],
) -> None:
    problems: list[str] = []
    for values in sorted(joined, key=_order):
        present = joined[values]
        if len(present) == len(patterns):
            continue
        captures = dict(zip(keys, values, strict=True))
        missing = [
            pattern.text if pattern.regex else substitute(pattern, captures)
            for place, pattern in enumerate(patterns)
            if place not in present
        ]
        label = ", ".join(f"{key}={value}" for key, value in captures.items())
        there = ", ".join(present[place] for place in sorted(present))
        problems.append(
            f"the group{label and ' '}{label} has {there} but lacks {', '.join(missing)}"
        )
    if problems:
        raise _listed(
            "CKM507",
            problems,
            why="every member pattern needs one entry for each combination of captures",
            fix="Narrow the patterns to complete groups, or create the missing entries before.",
        )


def stack_groups(
    sources: PatternLike, target: PatternLike, names: Iterable[str], *, optional: bool = False
) -> tuple[StackGroup, ...]:
    """Group the names that become one: `experts.{e}.w` to `w`, ordered by e.

    The one capture that the target lacks is the index; alternatives count by position.
    CKM504: not exactly one such capture. CKM505: nothing matches, unless `optional`.
    CKM508: the indices of a group are not 0 … n-1.
    """
    source, stacked = compile_pattern(sources), compile_pattern(target)
    _check_sides(source, stacked)
    extra = [key for key in source.keys if key not in stacked.keys]
    if len(extra) != 1:
        raise _unfit(
            stacked, f"it must leave out exactly one capture of {source.text!r}: the index"
        )
    known = _collection(names)
    found = select(source, known)
    if not found and not optional:
        raise _nothing_matches(source.text, known)
    members: dict[str, list[tuple[str, str]]] = {}
    for entry in found:
        name = substitute(stacked, entry.captures)
        members.setdefault(name, []).append((entry.captures[extra[0]], entry.name))
    return tuple(_stack_group(name, entries, extra[0]) for name, entries in members.items())


def _stack_group(target_name: str, entries: list[tuple[str, str]], key: str) -> StackGroup:
    numbered: dict[int, str] = {}
    for text, name in entries:
        if not _IS_INTEGER.fullmatch(text):
            raise _hole(target_name, f"{name!r} has the index {text!r}, not a number", key)
        if int(text) in numbered:
            both = f"{numbered[int(text)]!r} and {name!r}"
            raise _hole(target_name, f"{both} have the same index {text}", key)
        numbered[int(text)] = name
    last = max(numbered)
    holes = (index for index in range(last) if index not in numbered)
    listed = ", ".join(map(str, itertools.islice(holes, 5)))
    if listed:
        raise _hole(target_name, f"index {listed} is missing; the last is {numbered[last]!r}", key)
    return StackGroup(target_name, tuple(sorted(numbered.items())))


# Near misses


def nearest(text: str, names: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The existing names most like a name or pattern, best first, one for each set of layers.

    Names that only have a prefix more come before all others. Parts that `**` stands for are left
    out of the comparison. For error messages.
    """
    names = _collection(names)
    deeper = _deeper(text, names)[:limit]
    like = [name for name in _most_alike(text, names, limit) if name not in deeper]
    return (*deeper, *like[: limit - len(deeper)])


def _deeper(text: str, names: Collection[str]) -> tuple[str, ...]:
    """One name of each set of layers that the text fits behind a prefix."""
    try:
        found = {skeleton(name): name for name, _ in _scan(compile_pattern(f"**.{text}"), names)}
    except MigrationError:
        return ()
    return tuple(found.values())


def _most_alike(text: str, names: Collection[str], limit: int) -> tuple[str, ...]:
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


def _outline(text: str) -> tuple[str, int | None, int]:
    """A pattern as a comparable shape, and how many segments it fixes before and after `**`."""
    try:
        segments = _read(text)
    except MigrationError:
        return skeleton(text), None, 0
    deep = [place for place, segment in enumerate(segments) if segment[0].kind == "deep"]
    head = deep[0] if deep else None
    tail = len(segments) - deep[-1] - 1 if deep else 0
    kept = segments if head is None else segments[:head] + segments[len(segments) - tail :]
    return skeleton(".".join("".join(map(_sketch, segment)) for segment in kept)), head, tail


def _sketch(part: _Part) -> str:
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


# Errors


def _bad_pattern(text: str, at: int, why: str) -> MigrationError:
    return MigrationError(
        "CKM501",
        f"{text!r} is not a name pattern, at character {at + 1}",
        why=why,
        fix="Segments stand between dots: text, {i}, {i:int}, *, **, {rest:**}, {q,k,v}; on the "
        "target side also {i+1}. For anything else, and for names with such characters, pass "
        "re.compile(…).",
    )


def _too_slow(pattern: str, name: str, why: str) -> MigrationError:
    return MigrationError(
        "CKM502",
        f"matching {pattern!r} against {_shortened(name)!r} was given up",
        why=why,
        fix="Use fewer wildcards or repetitions side by side, or write plain names.",
    )


def _no_worker(pattern: str, error: OSError) -> MigrationError:
    return MigrationError(
        "CKM502",
        f"the regular expression {pattern!r} cannot be run with a time limit",
        why=f"starting {sys.executable!r} failed: {error}",
        fix="Write it as a name pattern, which needs no other process.",
    )


def _bad_value(target: Pattern, why: str) -> MigrationError:
    return MigrationError(
        "CKM503",
        f"{target.text!r} cannot be filled in",
        why=why,
        fix="Capture numbers as {i:int} on the source side, and shift only as far as names allow.",
    )


def _unfit(target: Pattern, why: str) -> MigrationError:
    return MigrationError(
        "CKM504",
        f"{target.text!r} does not fit what it is paired with",
        why=why,
        fix="Name the captures on both sides, such as '{a}.x.{b}' and 'y.{a}.{b}'.",
    )


def _no_capture(key: str, known: Iterable[str]) -> str:
    has = ", ".join(map(_described, known)) or "nothing"
    return f"it uses {_described(key)}; the source captures {has}"


def _described(key: str) -> str:
    if key.startswith("*"):
        return f"anonymous wildcard {int(key[1:]) + 1}"
    return f"alternatives {int(key[1:-1]) + 1}" if key.startswith("{") else f"{{{key}}}"


def _nothing_matches(text: str, known: Collection[str]) -> MigrationError:
    near = nearest(text, known)
    some = ", ".join(map(repr, near or itertools.islice(known, 3)))
    has = f"; {'the nearest' if near else 'the first'}: {some}" if some else ""
    return MigrationError(
        "CKM505",
        f"no entry matches {text!r}",
        why=f"the checkpoint has {len(known)} entries{has}",
        fix="Correct the pattern, or say optional=True if some checkpoints lack these entries.",
    )


def _collision(problems: list[str]) -> MigrationError:
    return _listed(
        "CKM506",
        problems,
        why="every entry needs a name of its own, and nothing is overwritten",
        fix="Keep in the new names what tells the entries apart, or rename or drop one before.",
    )


def _hole(target_name: str, problem: str, key: str) -> MigrationError:
    return MigrationError(
        "CKM508",
        f"the entries for {target_name!r} cannot be numbered: {problem}",
        why=f"{_described(key)} is the index and must be 0, 1, 2, … without holes",
        fix="Rename the entries so that the index has no holes, or narrow the pattern.",
    )


def _listed(code: str, problems: list[str], *, why: str, fix: str) -> MigrationError:
    """The first problem as the headline, the others below it."""
    details = tuple(problems[1:_MOST_DETAILS])
    rest = len(problems) - _MOST_DETAILS
    if rest > 0:
        details += (f"and {rest} more",)
    return MigrationError(code, problems[0], why=why, fix=fix, details=details)


def _shortened(name: str) -> str:
    return name if len(name) <= 120 else f"{name[:100]}… ({len(name)} characters)"
