"""The tag: the record inside a checkpoint that says which revision it is at.

JSON text, kept by each format in a place of its own. It comes from a file, so it is read as a
stranger's: every field is checked, and a tag that is not fully understood is no tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ckmigrate.errors import IdentifyError
from ckmigrate.revisions.graph import History
from ckmigrate.snapshot import fold_schema, unfold_schema
from ckmigrate.spec import Schema

__all__ = ["FORMAT", "MAX_BYTES", "Applied", "Tag", "parse_tag", "tag_at"]

FORMAT = 1
MAX_BYTES = 1 << 20

_KEYS = frozenset({"format", "project", "revision", "name", "release", "writer"}) | frozenset(
    {"history", "origin", "origin_revision"}
)
_APPLIED_KEYS = frozenset({"digest", "name", "revision"})
_REVISION = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
_LONGEST_TEXT = 1_000
_FIX = "give the revision with --from REV, or record it with `ckmigrate stamp`"


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that this checkpoint went through, with the digest of its operations.

    meta  (path, JSON text of the old value, or None where there was none) for every edit of
          metadata that a downgrade could not undo without it
    """

    revision: str
    name: str
    digest: str
    meta: tuple[tuple[str, str | None], ...] = ()

    def fields(self) -> dict[str, object]:
        """As JSON; `meta` only where there is some."""
        data: dict[str, object] = {
            "revision": self.revision,
            "name": _label(self.name),
            "digest": self.digest,
        }
        return {**data, "meta": [list(pair) for pair in self.meta]} if self.meta else data


@dataclass(frozen=True, slots=True)
class Tag:
    """What a checkpoint says about itself.

    project          whose history the revision belongs to
    revision         its id; None is base, before the first migration
    name, release    of that revision, for people: its slug, and its release if it has one
    writer           "ckmigrate 0.1.0"
    history          the migrations that were applied to this checkpoint, oldest first
    origin           folded schema of the checkpoint before the first of them (pattern → spec text,
                     see `ckmigrate.snapshot`); {} where it was not recorded. A downgrade is
                     derived from it.
    origin_revision  the revision that the origin was at; None is base
    """

    project: str
    revision: str | None
    name: str = ""
    release: str | None = None
    writer: str = ""
    history: tuple[Applied, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    origin_revision: str | None = None

    def to_json(self) -> str:
        """Compact ASCII text; equal tags give equal text.

        What would make it longer than `MAX_BYTES`, which every reader refuses, is left out: old
        metadata first, then the origin. Both serve downgrades only.
        """
        text = json.dumps(self._fields(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) <= MAX_BYTES:
            return text
        if any(applied.meta for applied in self.history):
            bare = tuple(replace(applied, meta=()) for applied in self.history)
            return replace(self, history=bare).to_json()
        return replace(self, origin={}).to_json() if self.origin else text

    def with_origin(self, schema: Schema, revision: str | None) -> Tag:
        """The tag with the schema of the checkpoint before its first migration."""
        return replace(self, origin=fold_schema(schema), origin_revision=revision)

    def origin_schema(self) -> Schema | None:
        """The recorded origin; None where there is none. IdentifyError CKM406 if unreadable."""
        if not self.origin:
            return None
        try:
            return unfold_schema(self.origin)
        except ValueError as error:
            raise _malformed(f"origin: {error}", None) from None

    def _fields(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "project": self.project,
            "revision": self.revision,
            "name": _label(self.name),
            "release": self.release,
            "writer": self.writer,
            "history": [applied.fields() for applied in self.history],
            "origin": dict(self.origin),
            "origin_revision": self.origin_revision,
        }


def tag_at(project: str, history: History, revision: str | None) -> Tag:
    """The tag of a checkpoint that is at a revision and that no migration was applied to."""
    from ckmigrate import __version__

    script = history.script(revision) if revision else None
    return Tag(
        project=project,
        revision=revision,
        name=(script.slug or script.message) if script else "base",
        release=_release(history, revision),
        writer=f"ckmigrate {__version__}",
    )


def _release(history: History, revision: str | None) -> str | None:
    """The release that a revision belongs to: its own, or the nearest before it on the way."""
    for script in reversed(history.path_up(None, revision, originals=True)):
        inner = tuple(script.pruned.get("releases", ()))
        if script.release or inner:
            return script.release or str(inner[-1])
    return None


def parse_tag(text: str, *, where: str | None = None) -> Tag:
    """Read the text of a tag; `where` names the file in errors.

    IdentifyError: CKM405 written by a newer ckmigrate, CKM406 malformed, CKM407 too large.
    """
    data = _parsed(text, where)
    number = data.get("format")
    if type(number) is int and number > FORMAT:
        writer = data.get("writer")
        by = (
            _shown(writer)
            if isinstance(writer, str) and writer
            else f"format {_shown(str(number))}"
        )
        what = f"the tag was written by a newer ckmigrate: {by}"
        why = f"its format is {_shown(str(number))}; this ckmigrate reads {FORMAT}"
        fix = "install a newer ckmigrate, or give the revision with --from REV"
        raise IdentifyError("CKM405", what, where=where, why=why, fix=fix)
    try:
        return _tag(data)
    except ValueError as error:
        raise _malformed(str(error), where) from None


def _parsed(text: str, where: str | None) -> dict[str, object]:
    if len(text) > MAX_BYTES:
        why = f"it has {len(text)} characters; the limit is {MAX_BYTES}"
        raise IdentifyError("CKM407", "the tag is too large", where=where, why=why, fix=_FIX)
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is no JSON: {error}", where) from None
    if not isinstance(data, dict):
        raise _malformed("it is no JSON object", where)
    return data


def _tag(data: Mapping[str, object]) -> Tag:
    number = data.get("format")
    if type(number) is not int or number != FORMAT:
        raise ValueError(f"its format is {_shown(str(number))}, not {FORMAT}")
    _check_keys(data, _KEYS, "the tag")
    return Tag(
        project=_text(data, "project"),
        revision=_revision(data, "revision"),
        name=_text(data, "name"),
        release=None if data["release"] is None else _text(data, "release"),
        writer=_text(data, "writer"),
        history=_history(data["history"]),
        origin=_origin(data["origin"]),
        origin_revision=_revision(data, "origin_revision"),
    )


def _history(value: object) -> tuple[Applied, ...]:
    if not isinstance(value, list):
        raise ValueError("history is not a list")
    found: list[Applied] = []
    for entry in value:
        if not isinstance(entry, dict):
            raise ValueError("history holds something that is not an object")
        _check_keys(entry, _APPLIED_KEYS | (entry.keys() & {"meta"}), "an entry of history")
        revision = _revision(entry, "revision")
        if revision is None:
            raise ValueError("history holds an entry without a revision")
        meta = _old_values(entry.get("meta", []))
        found.append(Applied(revision, _text(entry, "name"), _text(entry, "digest"), meta))
    return tuple(found)


def _old_values(value: object) -> tuple[tuple[str, str | None], ...]:
    found: list[tuple[str, str | None]] = []
    for pair in value if isinstance(value, list) else [None]:
        path, old = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(path, str) or not (old is None or isinstance(old, str)):
            raise ValueError("meta is not a list of paths with their old values")
        found.append((path, old))
    return tuple(found)


def _origin(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("origin is not an object")
    if not all(isinstance(spec, str) for spec in value.values()):
        raise ValueError("origin holds a spec that is not text")
    return dict(value)


def _check_keys(data: Mapping[str, object], keys: frozenset[str], what: str) -> None:
    missing, unknown = sorted(keys - data.keys()), sorted(data.keys() - keys)
    if missing:
        raise ValueError(f"{what} has no {missing[0]!r}")
    if unknown:
        raise ValueError(f"{what} has an unknown key {_shown(unknown[0])}")


def _text(data: Mapping[str, object], key: str) -> str:
    """A short text that a terminal shows as it is."""
    value = data[key]
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"{key} is not a short printable text")
    return value


def _revision(data: Mapping[str, object], key: str) -> str | None:
    value = data[key]
    if value is not None and not (isinstance(value, str) and _REVISION.fullmatch(value)):
        raise ValueError(f"{key} is not a revision id")
    return value


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _label(text: str) -> str:
    """A name as readers accept it: it may come from the docstring of a script."""
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST_TEXT]


def _shown(text: str) -> str:
    short = text if len(text) <= 100 else f"{text[:100]}…"
    return short if short.isprintable() else ascii(short)


def _malformed(why: str, where: str | None) -> IdentifyError:
    return IdentifyError("CKM406", "the tag is malformed", where=where, why=why, fix=_FIX)
