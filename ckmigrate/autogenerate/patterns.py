"""Pairs of names as renames: the shortest pattern that says exactly these and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ckmigrate.autogenerate.families import is_number
from ckmigrate.errors import MigrationError
from ckmigrate.fold import skeleton
from ckmigrate.names import pair

__all__ = ["Names", "Rename", "heads_of", "quoted", "rename_call", "renames", "says_exactly"]

Names = Sequence[Collection[str]]
"""The names of every state in which a pattern must be right: with all calls before it, and with
the certain ones alone."""

Rename = tuple[str, str]
_Path = tuple[str, ...]
_LETTERS = "ijklmn"


@dataclass(frozen=True, slots=True)
class _Edit:
    """One pair of names: heads that differ, and the segments at the end that both share."""

    old: _Path
    new: _Path
    rest: _Path

    @property
    def shape(self) -> tuple[str, str]:
        return skeleton(".".join(self.old)), skeleton(".".join(self.new))


def rename_call(rename: Rename) -> str:
    return f"ck.rename({quoted(rename[0])}, {quoted(rename[1])})"


def quoted(text: str) -> str:
    """A Python string, in double quotes unless it holds what cannot be printed."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else ascii(text)


def renames(pairs: Mapping[str, str], states: Names) -> list[tuple[Rename, dict[str, str]]]:
    """As few renames as possible that together say exactly `pairs`, each with its own pairs.

    One call for all of them where a pattern can say it; else one per module, per family of names
    that differ in numbers only, and at last one per name.
    """
    if not pairs:
        return []
    edits = {old: _edit(old, new) for old, new in pairs.items()}
    for candidate in _candidates(list(edits.values())):
        if says_exactly(candidate, pairs, states):
            return [(candidate, dict(pairs))]
    if len(pairs) == 1:
        ((old, new),) = pairs.items()
        return [((old, new), dict(pairs))]
    return [found for part in _parts(pairs, edits) for found in renames(part, states)]


def says_exactly(rename: Rename, pairs: Mapping[str, str], states: Names) -> bool:
    """Whether the rename moves these names, as far as a state has them, and no others."""
    for names in states:
        wanted = {old: new for old, new in pairs.items() if old in names}
        try:
            moved = pair(*rename, names, optional=True)
        except MigrationError:
            return False
        if moved != wanted:
            return False
    return True


def heads_of(old: str, new: str) -> Rename:
    """What of the names differs, without the end that both share."""
    edit = _edit(old, new)
    return ".".join(edit.old), ".".join(edit.new)


def _edit(old: str, new: str) -> _Edit:
    one, other = old.split("."), new.split(".")
    same = 0
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return _Edit(
        tuple(one[: len(one) - same]),
        tuple(other[: len(other) - same]),
        tuple(one[len(one) - same :]),
    )


def _parts(pairs: Mapping[str, str], edits: Mapping[str, _Edit]) -> Sequence[dict[str, str]]:
    """The pairs in smaller groups: by what changes, then by where, then one by one."""
    folded = {old: tuple(skeleton(old).split(".")) for old in pairs}
    depth = len(_shared(list(folded.values())))
    keys: tuple[Callable[[str], Hashable], ...] = (
        lambda old: tuple(map(len, (edits[old].old, edits[old].new))),
        lambda old: folded[old][depth : depth + 1],
        lambda old: edits[old].shape,
        lambda old: skeleton(".".join(edits[old].rest)),
        lambda old: edits[old].old,
        lambda old: old,
    )
    for key in keys:
        groups: dict[Hashable, dict[str, str]] = {}
        for old, new in pairs.items():
            groups.setdefault(key(old), {})[old] = new
        if len(groups) > 1:
            return list(groups.values())
    raise AssertionError("two pairs have one old name")


def _candidates(edits: Sequence[_Edit]) -> Iterator[Rename]:
    """Patterns of one form for all of them, the most general first."""
    rests = {edit.rest for edit in edits}
    for head in _heads(edits):
        used = sum(part.startswith("{") for part in head[0])
        for tail in (*_tails(rests), *_folded_tail(rests, used)):
            yield ".".join((*head[0], *tail)), ".".join((*head[1], *tail))


def _tails(rests: set[_Path]) -> Iterator[_Path]:
    if rests == {()}:
        yield ()
        return
    if () in rests:
        return
    if len(rests) == 1:
        yield next(iter(rests))
    elif all(len(rest) == 1 for rest in rests):
        yield ("{p}",)
        yield (_listed(sorted(rest[0] for rest in rests)),)
    yield ("**",)
    shared = _shared(list(rests))
    if shared and all(len(rest) > len(shared) for rest in rests):
        yield (*shared, "**")


def _folded_tail(rests: set[_Path], used: int) -> list[_Path]:
    """Captures for the numbers that vary, and for a last word; after the `used` letters."""
    if len({len(rest) for rest in rests}) != 1 or rests == {()}:
        return []
    letters = iter(_LETTERS[used:])
    columns = list(zip(*sorted(rests), strict=True))
    tail: list[str] = []
    for place, column in enumerate(columns):
        if len(set(column)) == 1:
            tail.append(column[0])
        elif all(map(is_number, column)):
            tail.append(f"{{{next(letters, 'z')}}}")
        elif place == len(columns) - 1:
            tail.append("{p}")
        else:
            return []
    return [tuple(tail)]


def _shared(paths: Sequence[_Path]) -> _Path:
    """The segments that all paths begin with."""
    columns = zip(*paths, strict=False)
    return tuple(c[0] for c in takewhile(lambda column: len(set(column)) == 1, columns))


def _heads(edits: Sequence[_Edit]) -> Iterator[tuple[_Path, _Path]]:
    """Both heads as patterns: numbers as captures first, then the numbers themselves."""
    if len({(len(edit.old), len(edit.new)) for edit in edits}) != 1:
        return
    old = list(zip(*(edit.old for edit in edits), strict=True))
    new = list(zip(*(edit.new for edit in edits), strict=True))
    for by_capture in (True, False):
        head = _head(old, new, by_capture=by_capture)
        if head is not None:
            yield head


def _head(
    old: Sequence[_Path], new: Sequence[_Path], *, by_capture: bool
) -> tuple[_Path, _Path] | None:
    """`old` and `new` hold, for each position, the segment of every pair."""
    letters = iter(_LETTERS)
    source: list[str] = []
    captured: dict[int, str] = {}
    for place, column in enumerate(old):
        if len(set(column)) == 1:
            source.append(column[0])
        elif by_capture and all(map(is_number, column)):
            captured[place] = next(letters, "z")
            source.append(f"{{{captured[place]}}}")
        else:
            captured[place] = ""
            source.append("")
    target: list[str] = []
    listed: set[int] = set()
    for column in new:
        text = column[0] if len(set(column)) == 1 else None
        for place, letter in captured.items():
            if text is not None:
                break
            shift = _shift(old[place], column) if letter else None
            if shift is not None:
                text = f"{{{letter}{shift:+}}}" if shift else f"{{{letter}}}"
            elif not letter and place not in listed:
                both = _both_listed(old[place], column)
                if both is not None:
                    source[place], text = both
                    listed.add(place)
        if text is None:
            return None
        target.append(text)
    return (tuple(source), tuple(target)) if all(source) else None


def _shift(old: _Path, new: _Path) -> int | None:
    """The one number by which the new numbers are larger than the old ones."""
    if not all(map(is_number, new)):
        return None
    shifts = {int(b) - int(a) for a, b in zip(old, new, strict=True)}
    return shifts.pop() if len(shifts) == 1 else None


def _both_listed(old: _Path, new: _Path) -> tuple[str, str] | None:
    """Alternatives that pair in order; None where one word stands for several."""
    words = dict(zip(old, new, strict=True))
    if len(set(zip(old, new, strict=True))) != len(words) or len(set(words.values())) != len(words):
        return None
    return _listed(words), _listed(words.values())


def _listed(words: Collection[str]) -> str:
    return f"{{{','.join(words)}}}"
