"""`history.lock`: one committed line per revision, what it does and where it leads.

    42ac254d33  2:9f8a6c01d2e47b10  1:0c1d2e3f4a5b6c7d  rename_transformer_to_encoder

Columns: revision id; digest of the recorded operations; signature of the schema that they reach,
folded over indices; slug. Digest and signature have the number of their algorithm in front, and
`-` stands for one that is not known. Where the models of a project differ, the values are joined by
commas in the order of the models' names. Parents stand before children and the newest is last, so
that git reports a conflict where two branches add a revision each.

The text may be a stranger's, or half merged: every column is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import HistoryError

__all__ = [
    "UNKNOWN",
    "Conflict",
    "Lock",
    "LockLine",
    "is_conflicted",
    "parse_conflicted",
    "parse_lock",
    "read_lock",
    "read_sides",
    "render_lock",
]

FORMAT = 1
UNKNOWN = "-"
"""In place of a digest or a signature that is not known."""

_HEADER = f"""\
# ckmigrate history lock, format {FORMAT}. Written by ckmigrate; commit it with the scripts.
# A line is: revision, digest of its operations, signature of the schema it reaches, slug.
# A merge conflict below means that two branches added a revision each: `ckmigrate rebase`.
"""
_FORMAT = re.compile(r"# ckmigrate history lock, format ([0-9]{1,9})\b", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{8,32}")
_VALUE = re.compile(r"(?:-|[1-9][0-9]{0,3}:[0-9a-f]{8,64})")
_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})(?: (.*))?")
_LONGEST_SLUG = 255
_SIDES = {"<": "ours", "|": "base", "=": "theirs", ">": None}
_BEFORE = {"<": (None,), "|": ("ours",), "=": ("ours", "base"), ">": ("theirs",)}
_FIX = (
    "Restore it from version control (while git merges: git checkout --merge -- FILE). If it is "
    "lost, delete it: `ckmigrate lock` then records everything anew, and compares nothing."
)


@dataclass(frozen=True, slots=True)
class LockLine:
    """What is recorded of one revision.

    digest, signature  one value, or one for each model; `UNKNOWN` where there is none
    slug               for people; no blanks
    """

    revision: str
    digest: str
    signature: str
    slug: str

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest, or one for each model in the order of their names."""
        return tuple(self.digest.split(","))

    @property
    def signatures(self) -> tuple[str, ...]:
        """The signature, or one for each model in the order of their names."""
        return tuple(self.signature.split(","))


@dataclass(frozen=True, slots=True)
class Lock:
    """The lines, parents before children; no revision stands in two of them."""

    lines: tuple[LockLine, ...] = ()

    @property
    def revisions(self) -> tuple[str, ...]:
        """The ids in the order of the lines."""
        return tuple(line.revision for line in self.lines)

    def line(self, revision: str) -> LockLine | None:
        """The line of a revision; None where there is none."""
        return next((line for line in self.lines if line.revision == revision), None)


@dataclass(frozen=True, slots=True)
class Conflict:
    """The sides of a lock that git could not merge.

    ours, theirs  as the two branches have it; while `git rebase` runs, "ours" is the upstream
    base          as it was where they part; None where git did not write it down (its style
                  "merge"), or shortened it (its style "zdiff3")
    names         what git calls the two sides, such as ("HEAD", "feature"); "" where it does not
    """

    ours: Lock
    theirs: Lock
    base: Lock | None = None
    names: tuple[str, str] = ("", "")


def render_lock(lock: Lock) -> str:
    """The text of a lock; `parse_lock` reads it back."""
    rows = ((line.revision, line.digest, line.signature, line.slug) for line in lock.lines)
    return _HEADER + "".join("  ".join(row) + "\n" for row in rows)


def read_lock(path: Path) -> Lock | None:
    """Read a lock file, None where there is none. HistoryError: CKM320 where it cannot be read, and
    what `parse_lock` raises."""
    text = _text(path)
    return None if text is None else parse_lock(text, str(path))


def read_sides(path: Path) -> Conflict | None:
    """Read a lock file that git may not have been able to merge, None where there is none.
    HistoryError: CKM320 where it cannot be read, and what `parse_conflicted` raises."""
    text = _text(path)
    return None if text is None else parse_conflicted(text, str(path))


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        what, why = f"{path.name} cannot be read", getattr(error, "strerror", None) or str(error)
        raise HistoryError("CKM320", what, where=str(path), why=why, fix=_FIX) from None


def parse_lock(text: str, where: str) -> Lock:
    """Read the text of a lock; lines may end in CRLF.

    HistoryError: CKM321 a line that cannot be read, CKM322 git could not merge it, CKM323 another
    format, CKM324 two lines of one revision.
    """
    if is_conflicted(text):
        raise HistoryError(
            "CKM322",
            "git could not merge the history: two branches added a revision each",
            where=where,
            why="the lock holds conflict markers",
            fix="Put your revisions after the others: ckmigrate rebase; or join the branches: "
            "ckmigrate merge. Both read the conflict, and write the lock anew.",
        )
    return _lock(_split(text), where)


def is_conflicted(text: str) -> bool:
    """Whether git left its conflict markers in the text."""
    marks = {mark[1][0] for line in _split(text) if (mark := _MARKER.fullmatch(line))}
    return bool(marks & {"<", ">"})


def parse_conflicted(text: str, where: str = "history.lock") -> Conflict:
    """Read a lock with git's conflict markers (styles merge, diff3 and zdiff3); without any, both
    sides are the whole. HistoryError CKM321 to CKM324 where a side, or their frame, is broken."""
    sides: dict[str | None, list[str]] = {"ours": [], "base": [], "theirs": []}
    names = {"<": "", ">": ""}
    side: str | None = None
    has_base = False
    for number, line in enumerate(_split(text), 1):
        mark = _MARKER.fullmatch(line)
        if mark is None:
            for lines in sides.values() if side is None else (sides[side],):
                lines.append(line)
            continue
        kind = mark[1][0]
        if side not in _BEFORE[kind]:
            raise _bad_line(where, number, "a conflict marker stands in the wrong place")
        has_base |= kind == "|"
        names[kind] = names.get(kind) or mark[2] or ""
        side = _SIDES[kind]
    if side is not None:
        raise _bad_line(where, len(_split(text)), "a conflict has no end")
    ours, theirs = (_lock(sides[side], f"{where} ({side})") for side in ("ours", "theirs"))
    is_told = has_base or not is_conflicted(text)
    base = _lock_or_none(sides["base"], where) if is_told else None
    return Conflict(ours, theirs, base, (names["<"], names[">"]))


def _split(text: str) -> list[str]:
    """Lines as git counts them: other characters that end a line for Python do not."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _lock(lines: Iterable[str], where: str) -> Lock:
    _require_format(lines, where)
    found: dict[str, LockLine] = {}
    for number, line in _content(lines):
        read = _line(line, where, number)
        if read.revision in found:
            raise HistoryError(
                "CKM324",
                f"the lock has two lines of revision {read.revision}",
                where=f"{where}, line {number}",
                why="a revision has one line",
                fix=_FIX,
            )
        found[read.revision] = read
    return Lock(tuple(found.values()))


def _lock_or_none(lines: Iterable[str], where: str) -> Lock | None:
    try:
        return _lock(lines, where)
    except HistoryError:
        return None


def _content(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _require_format(lines: Iterable[str], where: str) -> None:
    first = next(iter(lines), "")
    found = _FORMAT.match(first)
    if found is None:
        raise _bad_line(where, 1, "the first line does not say that it is a lock")
    if int(found[1]) != FORMAT:
        raise HistoryError(
            "CKM323",
            f"the lock has format {found[1]}; this ckmigrate reads {FORMAT}",
            where=where,
            fix="Install a newer ckmigrate. If there is none, delete the lock: `ckmigrate lock` "
            "then records everything anew, and compares nothing.",
        )


def _line(line: str, where: str, number: int) -> LockLine:
    columns = line.split()
    if len(columns) != 4:
        raise _bad_line(where, number, f"it has {len(columns)} columns, not 4")
    revision, digest, signature, slug = columns
    if not _REVISION.fullmatch(revision):
        raise _bad_line(where, number, f"{_shown(revision)} is no revision id")
    for text in (digest, signature):
        if not all(map(_VALUE.fullmatch, text.split(","))):
            raise _bad_line(
                where, number, f"{_shown(text)} is no digest such as 2:9f8a6c01d2e47b10"
            )
    if len(slug) > _LONGEST_SLUG or not slug.isprintable():
        raise _bad_line(where, number, f"{_shown(slug)} is no slug")
    return LockLine(revision, digest, signature, slug)


def _bad_line(where: str, number: int, why: str) -> HistoryError:
    place = f"{where}, line {number}"
    return HistoryError("CKM321", "the lock cannot be read", where=place, why=why, fix=_FIX)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")
