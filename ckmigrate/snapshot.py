"""Schemas as committed text: one folded line per group of entries, so that a diff can be read.

{
  "format": 1,
  "model": "small",
  "entries": {
    "encoder.blocks.{0..3}.attn.q.weight": "F32[64,64]"
  },
  "tied": [
    ["embed.weight", "head.weight"]
  ],
  "order": {
    ".": "embed encoder head"
  }
}

The order is that of the model, see `ckmigrate.name_order`: optimizers count parameters by it. It is
left out where it is not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import MigrationError, UsageError
from ckmigrate.fold import expand, fold
from ckmigrate.name_order import order_lines, ordered
from ckmigrate.names.order import natural_key
from ckmigrate.spec import DType, Schema, TensorSpec

__all__ = [
    "Snapshot",
    "fold_schema",
    "order_of",
    "parse_snapshot",
    "parse_spec",
    "read_snapshot",
    "render_snapshot",
    "spec_text",
    "unfold_schema",
]

FORMAT = 1

_MOST_NAMES = 2_000_000
_LARGEST = 1 << 62
_SPEC = re.compile(r"([A-Z0-9_]+)\[((?:\d{1,19}(?:,\d{1,19})*)?)\]", re.ASCII)
_CODES = {dtype.code: dtype for dtype in DType}
_KEYS = ("format", "model", "entries", "tied")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The schema of a model at one time, with its groups of tied names, and all names in the order
    of the model; None where that is not known."""

    schema: Schema
    ties: tuple[tuple[str, ...], ...]
    model: str
    order: tuple[str, ...] | None = None


def order_of(snapshot: Snapshot, schema: Schema) -> tuple[str, ...] | None:
    """The names of a checkpoint in the order of the model that a snapshot is of; None where it does
    not know it, or is of another model. Of tied names the checkpoint may have one only."""
    kept = {
        name: next((other for other in group if other in schema), name)
        for group in snapshot.ties
        for name in group
    }
    listed = (name if name in schema else kept.get(name, name) for name in snapshot.order or ())
    names = tuple(dict.fromkeys(listed))
    same = Schema((name, snapshot.schema[name]) for name in names) == schema
    return names if snapshot.order is not None and same else None


def spec_text(spec: TensorSpec) -> str:
    """A spec as "F32[64,64]"; a scalar is "I64[]"."""
    return f"{spec.dtype.code}[{','.join(map(str, spec.shape))}]"


def parse_spec(text: str) -> TensorSpec:
    """Read what `spec_text` writes; ValueError for anything else."""
    found = _SPEC.fullmatch(text)
    if found is None or found[1] not in _CODES:
        raise ValueError(f"{text[:80]!r} is not a dtype and shape such as 'F32[64,64]'")
    shape = tuple(int(size) for size in found[2].split(",") if size)
    if any(size >= _LARGEST for size in shape):
        raise ValueError(f"{text[:80]!r} has a size beyond reason")
    return TensorSpec(_CODES[found[1]], shape)


def fold_schema(schema: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Folded pattern → spec text, in natural order of the names."""
    ordered = {name: spec_text(schema[name]) for name in sorted(schema, key=natural_key)}
    return {line.pattern: line.value for line in fold(ordered, ascii=True)}


def unfold_schema(lines: Mapping[str, str]) -> Schema:
    """The inverse of `fold_schema`; ValueError, naming the line, for text it cannot have written.

    The text may be a stranger's: a few lines cannot stand for more names than memory holds.
    """
    found: dict[str, TensorSpec] = {}
    for pattern, text in lines.items():
        try:
            names = expand(pattern, limit=_MOST_NAMES - len(found))
            spec = parse_spec(text)
        except (MigrationError, ValueError) as error:
            why = error.why if isinstance(error, MigrationError) else str(error)
            raise ValueError(f"{pattern[:200]!r}: {why}") from None
        twice = next((name for name in names if name in found), None)
        if twice is not None:
            raise ValueError(f"{pattern[:200]!r}: it repeats {twice!r}")
        found.update(dict.fromkeys(names, spec))
    return Schema(found)


def render_snapshot(snapshot: Snapshot) -> str:
    """The text of a snapshot file; equal snapshots give equal text."""
    entries = [f"{_quoted(p)}: {_quoted(t)}" for p, t in fold_schema(snapshot.schema).items()]
    groups = sorted(snapshot.ties, key=lambda group: [natural_key(name) for name in group])
    tied = ["[" + ", ".join(map(_quoted, group)) + "]" for group in groups]
    head = f'  "format": {FORMAT},\n  "model": {_quoted(snapshot.model)},\n'
    parts = [f'  "entries": {_block(entries, "{}")}', f'  "tied": {_block(tied, "[]")}']
    lines = None if snapshot.order is None else order_lines(snapshot.order)
    if lines is not None:
        listed = [f"{_quoted(path)}: {_quoted(text)}" for path, text in lines.items()]
        parts.append(f'  "order": {_block(listed, "{}")}')
    return "{\n" + head + ",\n".join(parts) + "\n}\n"


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot file. UsageError: CKM220 unreadable, CKM221 to CKM224 as `parse_snapshot`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "restore it from version control, or write a new one with `ckmigrate init`"
        what = "the snapshot of the model cannot be read"
        raise UsageError("CKM220", what, where=str(path), why=str(error), fix=fix) from None
    return parse_snapshot(text, str(path))


def parse_snapshot(text: str, where: str) -> Snapshot:
    """Read the text of a snapshot.

    UsageError: CKM221 no JSON object, CKM222 another format number, CKM223 a key is missing,
    unknown or of a wrong type, CKM224 an entry that cannot be read or a tie that names no entry.
    """
    data = _parsed(text, where)
    number = data.get("format")
    if type(number) is not int or number != FORMAT:
        what = f"the snapshot has format {str(number)[:40]!r}; this ckmigrate reads {FORMAT}"
        raise UsageError("CKM222", what, where=where, fix="upgrade ckmigrate, or write it anew")
    odd = [key for key in data if key not in (*_KEYS, "order")]
    odd += [key for key in _KEYS if key not in data]
    if odd:
        raise _bad_key(where, odd[0], "it is unknown" if odd[0] in data else "it is missing")
    model, entries, tied = data["model"], data["entries"], data["tied"]
    if not isinstance(model, str):
        raise _bad_key(where, "model", "it must be text")
    schema = _schema(entries, where)
    order = _order(data["order"], schema, where) if "order" in data else None
    return Snapshot(schema, _groups(tied, schema, where), model, order)


def _order(lines: object, schema: Schema, where: str) -> tuple[str, ...]:
    if not isinstance(lines, dict) or not all(isinstance(text, str) for text in lines.values()):
        raise _bad_key(where, "order", "it must map modules to the names of their children")
    try:
        return ordered(schema, lines)
    except (MigrationError, ValueError) as error:
        why = error.why if isinstance(error, MigrationError) else str(error)
        raise _bad_entry(where, f"order: {why}") from None


def _schema(entries: object, where: str) -> Schema:
    if not isinstance(entries, dict):
        raise _bad_key(where, "entries", "it must map names to specs")
    wrong = next((key for key, value in entries.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise _bad_key(where, wrong, "its spec must be text such as 'F32[64,64]'")
    try:
        return unfold_schema(entries)
    except ValueError as error:
        raise _bad_entry(where, str(error)) from None


def _groups(tied: object, schema: Schema, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(tied, list) or not all(isinstance(group, list) for group in tied):
        raise _bad_key(where, "tied", "it must be a list of lists of names")
    names = [name for group in tied for name in group]
    for name in names:
        if not isinstance(name, str) or name not in schema:
            raise _bad_entry(where, f"tied: {name!r} is no entry")
    if len(names) != len(set(names)):
        raise _bad_entry(where, "tied: a name stands in it twice")
    return tuple(tuple(group) for group in tied)


def _parsed(text: str, where: str) -> dict[str, object]:
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        why = f"it is no JSON: {error}"
    else:
        if isinstance(data, dict):
            return data
        why = "it is no JSON object"
    fix = "restore it from version control"
    raise UsageError("CKM221", "the snapshot is malformed", where=where, why=why, fix=fix)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice!r} stands in it twice")
    return found


def _block(lines: Sequence[str], brackets: str) -> str:
    inner = ",\n".join(f"    {line}" for line in lines)
    return f"{brackets[0]}\n{inner}\n  {brackets[1]}" if lines else brackets


def _quoted(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no bytes in a file
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


def _bad_key(where: str, key: str, why: str) -> UsageError:
    what = f"the snapshot is malformed at {key!r}"
    fix = "restore it from version control"
    return UsageError("CKM223", what, where=where, why=why, fix=fix)


def _bad_entry(where: str, why: str) -> UsageError:
    what = "the snapshot holds an entry that cannot be read"
    fix = "restore it from version control"
    return UsageError("CKM224", what, where=where, why=why, fix=fix)
