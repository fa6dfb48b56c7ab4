"""Where ckmigrate's tag is in a torch file: a key of the top-level dict, or a record beside it."""

from __future__ import annotations

from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.tree_paths import entries_of, with_entries

__all__ = ["TAG_KEY", "TAG_RECORD", "take_tag", "with_tag"]

TAG_KEY: Final = "ckmigrate"
TAG_RECORD: Final = "ckmigrate.json"

_STAMP: Final = "Remove it, then stamp the file again with ckmigrate stamp."


def take_tag(tree: object, record: str | None, *, where: str) -> tuple[object, str | None]:
    """The tree without the tag's key, and the tag's text.

    record  the text of the tag's record, where the file has one

    Raises StorageError CKM716 when the key holds no text, or says something else than the record.
    """
    entries = entries_of(tree)
    if entries is None or TAG_KEY not in entries:
        return tree, record
    tag = entries[TAG_KEY]
    if not isinstance(tag, str):
        what = f"the key {TAG_KEY!r} holds no tag of ckmigrate"
        why = f"it should be text and is of type {type(tag).__name__}"
        raise StorageError("CKM716", what, where=where, why=why, fix=_STAMP)
    if record not in (None, tag):
        what = f"the key {TAG_KEY!r} and the record {TAG_RECORD!r} say different things"
        raise StorageError("CKM716", what, where=where, fix=_STAMP)
    rest = {key: part for key, part in entries.items() if key != TAG_KEY}
    return with_entries(tree, rest), tag


def with_tag(tree: object, tag: str) -> object:
    """The tree with the tag as the last key of its top level; the tree itself stays as it is."""
    entries = entries_of(tree)
    if entries is None or TAG_KEY in entries:
        taken = "is taken" if entries is not None else "has no place: the top level is no dict"
        what = f"the key {TAG_KEY!r} {taken}"
        raise StorageError("CKM716", what, fix="write the tag as a record of the archive")
    return with_entries(tree, {**entries, TAG_KEY: tag})
