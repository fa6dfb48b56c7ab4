"""ckmigrate's tag in a DCP folder: `ckmigrate.json`, beside the `.metadata` that it is about.

    {"tags": [{"metadata": "<SHA-256 of .metadata>", "tag": "<text of the tag>"}]}

Whoever saves into the folder again replaces `.metadata` and knows nothing of the tag; a tag of
another `.metadata` therefore counts for nothing. For a moment of an upgrade in place the file has
two lines, for the old `.metadata` and for the new one. A file that is a tag itself, as a training
script may write it, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.folder_names import TAG_FILE
from ckmigrate.formats.shard_index import json_object

__all__ = ["digest_of", "read_tag", "render_tags"]

_STAMP: Final = "Remove the file, then stamp the checkpoint again with ckmigrate stamp."


def digest_of(metadata: bytes) -> str:
    """What a tag names a `.metadata` by."""
    return hashlib.sha256(metadata).hexdigest()


def read_tag(raw: bytes, metadata: bytes, *, where: str) -> str | None:
    """The tag of this `.metadata`; None where the file has only those of others.

    StorageError CKM786 for a file that is no tag of ckmigrate.
    """
    document = json_object(raw, where=where, code="CKM786", what=TAG_FILE, fix=_STAMP)
    if "tags" not in document:
        return raw.decode()
    lines = document["tags"]
    wanted = digest_of(metadata)
    for line in lines if isinstance(lines, list) else [None]:
        digest, tag = (line.get("metadata"), line.get("tag")) if isinstance(line, dict) else (0, 0)
        if not isinstance(digest, str) or not isinstance(tag, str):
            what = f"{TAG_FILE} is no tag of ckmigrate"
            raise StorageError("CKM786", what, where=where, fix=_STAMP)
        if digest == wanted:
            return tag
    return None


def render_tags(tags: Sequence[tuple[str, str]]) -> bytes:
    """The file for these (digest of a .metadata, tag)."""
    lines = [{"metadata": digest, "tag": tag} for digest, tag in tags]
    return f"{json.dumps({'tags': lines}, indent=1, ensure_ascii=False)}\n".encode()
