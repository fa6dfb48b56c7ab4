"""The index of a sharded checkpoint: which file of the folder holds which tensor.

    {"metadata": {"total_size": 1234}, "weight_map": {"tensor name": "file name"}}

It is a stranger's: a name in it is the name of a file beside it and nothing that leads elsewhere.
Pure: text in, values out, and back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Never

from ckmigrate.errors import StorageError

__all__ = [
    "Index",
    "json_object",
    "parse_index",
    "render_index",
    "render_like",
    "with_shard_names",
]

_TAG_KEY: Final = "ckmigrate"
_TOTALS: Final = ("total_size", "total_parameters")
_LONGEST_NAME: Final = 255
_AGAIN: Final = "Download or save the checkpoint again; a damaged index cannot be trusted."


@dataclass(frozen=True, slots=True)
class Index:
    """An index that was read.

    weight_map  tensor name → file name
    totals      the keys of its metadata that say how much there is
    metadata    the others, without ckmigrate's own
    tag         the JSON text of ckmigrate's tag, or None
    """

    weight_map: Mapping[str, str]
    totals: tuple[str, ...] = ("total_size",)
    metadata: Mapping[str, object] | None = None
    tag: str | None = None


def parse_index(text: bytes, *, where: str) -> Index:
    """Read an index; StorageError CKM761 where it is no index, CKM762 where it names what is no
    file of its folder."""
    document = json_object(text, where=where, code="CKM761", what="the index", fix=_AGAIN)
    weight_map = _weight_map(document.get("weight_map"), where)
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        _refuse("its metadata is not an object", where)
    tag = metadata.get(_TAG_KEY)
    if not isinstance(tag, str | None):
        _refuse(f"what stands under {_TAG_KEY!r} in its metadata is not text", where)
    rest = {k: v for k, v in metadata.items() if k != _TAG_KEY and k not in _TOTALS}
    totals = tuple(key for key in _TOTALS if key in metadata or key == _TOTALS[0])
    return Index(weight_map, totals, rest, tag)


def _weight_map(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        _refuse("it has no weight_map of tensor names to file names", where)
    for name, file in value.items():
        if not isinstance(file, str):
            _refuse(f"the file of {name!r:.80} is not a text", where)
    for file in dict.fromkeys(value.values()):
        _check_name(file, where)
    return value


def _check_name(file: str, where: str) -> None:
    """A file name and nothing else: it cannot lead out of the folder."""
    leads_away = file in ("", ".", "..") or "/" in file or "\\" in file
    if leads_away or not file.isprintable() or len(file.encode()) > _LONGEST_NAME:
        raise StorageError(
            "CKM762",
            f"the index names {file!r:.120}, which is no file of its folder",
            where=where,
            why="The files of a checkpoint lie beside its index; a name with separators, an empty "
            "one or '..' could lead to any file of this machine.",
            fix="Do not use this checkpoint unless you know who wrote it, and why.",
        )


def _refuse(why: str, where: str) -> Never:
    raise StorageError(
        "CKM761", "the index is not that of a checkpoint", where=where, why=why, fix=_AGAIN
    )


def render_index(
    weight_map: Mapping[str, str], metadata: Mapping[str, object], tag: str | None
) -> bytes:
    """The text of an index, as the usual writers lay it out."""
    pairs = {**metadata} | ({} if tag is None else {_TAG_KEY: tag})
    document = {"metadata": pairs, "weight_map": dict(sorted(weight_map.items()))}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def with_shard_names(raw: bytes, names: Mapping[str, str]) -> bytes:
    """An index that `render_index` made, with other names for its shards."""
    document = json.loads(raw)
    document["weight_map"] = {k: names[v] for k, v in document["weight_map"].items()}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def json_object(
    raw: bytes, *, where: str, code: str, what: str, fix: str | None = None
) -> dict[str, object]:
    """A JSON object in which no key stands twice; StorageError `code` for everything else."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r:.120} stands in it twice")
        return found

    try:
        document: object = json.loads(raw.decode(), object_pairs_hook=unique)
        json.dumps(document, ensure_ascii=False).encode()  # no lone surrogates
    except (ValueError, RecursionError) as error:
        why = str(error) or type(error).__name__
        raise StorageError(code, f"{what} is not JSON", where=where, why=why, fix=fix) from None
    if not isinstance(document, dict):
        raise StorageError(code, f"{what} is not a JSON object", where=where, fix=fix)
    return document


def _indent_of(text: str) -> str | None:
    """The indent of a JSON text; None where it is on one line."""
    found = re.search(r"\n([ \t]*)\"", text)
    return found[1] if found else None


def render_like(value: object, text: str) -> str:
    """The value as JSON, laid out as `text` is: its indent, separators, escapes and last line."""
    indent = _indent_of(text)
    spaced = bool(re.search(r"\":[ \t]", text)) or indent is not None
    colon = ": " if spaced else ":"
    comma = ", " if indent is None and spaced else ","
    ascii_only = text.isascii() and "\\u" in text
    ending = text[len(text.rstrip()) :]
    body = json.dumps(value, indent=indent, separators=(comma, colon), ensure_ascii=ascii_only)
    return body + ending
