"""The parts of the JSON documents. Fields are only ever added; numbers of bytes are exact."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ckmigrate.formats.tree import Global, Tensor
from ckmigrate.identify import Identity
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script
from ckmigrate.spec import TensorSpec
from ckmigrate.tagging import Tag

__all__ = ["entry_data", "identity_data", "plain_data", "revision_data", "script_data", "tag_data"]


def revision_data(history: History, revision: str | None) -> dict[str, object]:
    """A revision by id and name; the base has the id null."""
    script = history.scripts.get(revision) if revision is not None else None
    name = "base" if script is None else script.path.stem
    release = None if script is None else script.release
    return {
        "revision": revision,
        "name": name,
        "release": release,
        "is_head": (revision,) == history.heads or (revision is None and not len(history)),
    }


def script_data(history: History, script: Script) -> dict[str, object]:
    """Everything that a script declares."""
    return {
        "revision": script.id,
        "revises": list(script.parents),
        "children": list(history.children[script.id]),
        "formerly": [old for old, _ in script.formerly],
        "release": script.release,
        "message": script.message,
        "file": str(script.path),
        "number": script.number,
        "slug": script.slug,
        "irreversible": script.irreversible,
        "replaces": list(script.replaces),
        "has_downgrade": script.has_downgrade,
        "has_verify": script.has_verify,
        "has_todo": script.has_todo,
        "is_head": script.id in history.heads,
    }


def identity_data(history: History, identity: Identity) -> dict[str, object]:
    """The revision of a file and what it rests on."""
    found = revision_data(history, identity.revision)
    return {**found, "evidence": identity.evidence}


def entry_data(name: str, spec: TensorSpec) -> dict[str, object]:
    """One tensor."""
    return {
        "name": name,
        "dtype": str(spec.dtype),
        "shape": list(spec.shape),
        "bytes": spec.nbytes,
    }


def tag_data(tag: Tag | None) -> dict[str, object] | None:
    """A tag as it stands in the file, its folded origin left out."""
    if tag is None:
        return None
    return {
        "project": tag.project,
        "revision": tag.revision,
        "name": tag.name,
        "release": tag.release,
        "writer": tag.writer,
        "history": [
            {"revision": a.revision, "name": a.name, "digest": a.digest} for a in tag.history
        ],
        "origin_revision": tag.origin_revision,
    }


def plain_data(value: object, depth: int = 20) -> object:
    """What JSON can hold of a value; the rest as the text of its kind."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Global):
        return str(value)
    if isinstance(value, Tensor):
        return f"tensor {value.spec}"
    if depth and isinstance(value, Mapping):
        return {str(key): plain_data(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        items: Iterable[object] = value
        return [plain_data(item, depth - 1) for item in items]
    return type(value).__name__
