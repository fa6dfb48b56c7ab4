"""The entries of a checkpoint that are not tensors, and edits of them.

A path is dotted: `hyper_parameters.n_head`. While a history is replayed on a schema alone, metadata
is unknown: edits are recorded, reading raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

from ckmigrate.errors import CkmigrateError
from ckmigrate.formats import meta_tree
from ckmigrate.formats.state_dict import is_state_dict
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, child, entries_of
from ckmigrate.step import Irreversible, refuse

__all__ = ["ABSENT", "UNKNOWN", "Meta", "MetaEdit", "Unknown"]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


class Unknown:
    """That a value is not known; there is one, `UNKNOWN`."""

    def __repr__(self) -> str:
        return "unknown"


ABSENT = _Absent()
UNKNOWN = Unknown()


@dataclass(frozen=True, slots=True)
class MetaEdit:
    """One edit. `old` is what stood at the path before: a value, ABSENT, or UNKNOWN.

    An optional rename does nothing where the path is missing, in both directions; it is recorded
    all the same, so that the record does not depend on the file.
    """

    kind: Literal["rename", "set", "drop"]
    path: str
    new: str = ""
    value: object = None
    old: object = UNKNOWN
    optional: bool = False

    def inverse(self) -> MetaEdit:
        """The edit back; raises Irreversible where the old value is not known."""
        if self.kind == "rename":
            return MetaEdit("rename", self.new, new=self.path, optional=self.optional)
        if self.old is UNKNOWN:
            raise Irreversible(f"the old value of metadata '{self.path}' is not recorded")
        if self.old is ABSENT:
            return MetaEdit("drop", self.path)
        return MetaEdit("set", self.path, value=self.old)

    def old_text(self) -> str | Unknown | None:
        """The old value as JSON text, None where there was none, UNKNOWN where it is not known,
        is not needed, or is more than JSON can say."""
        if self.kind == "rename" or self.old is UNKNOWN:
            return UNKNOWN
        if self.old is ABSENT:
            return None
        return json.dumps(self.old, sort_keys=True) if _is_json(self.old) else UNKNOWN

    def with_old(self, text: str | None) -> MetaEdit:
        """The edit with an old value that `old_text` gave; unreadable text changes nothing."""
        try:
            return replace(self, old=ABSENT if text is None else json.loads(text))
        except ValueError:
            return self


def _is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Meta:
    """The tree of a checkpoint, seen without its tensors; UNKNOWN while there is none.

    text_only  the format keeps texts and nothing else, as safetensors does
    free       entries of a `text_only` tree that hold any JSON value, as config.json does
    weights    path of the state dict in the tree, which edits leave alone; None where they cannot
               reach it
    """

    tree: object
    text_only: bool = False
    free: tuple[str, ...] = ()
    weights: Path | None = None

    @classmethod
    def unknown(cls) -> Meta:
        return cls(UNKNOWN)

    @property
    def is_known(self) -> bool:
        return self.tree is not UNKNOWN

    def get(self, path: str) -> object:
        """The value at a path; MigrationError CKM571 where there is none."""
        self._require_known(path)
        return meta_tree.plain(meta_tree.get(self.tree, path))

    def __contains__(self, path: object) -> bool:
        self._require_known(str(path))
        return isinstance(path, str) and meta_tree.has(self.tree, path)

    def _require_known(self, path: str) -> None:
        if not self.is_known:
            raise refuse(
                "CKM573",
                f"metadata '{path}' is not known here",
                why="The history is being replayed on names and shapes alone, to learn which "
                "revision a file is at or how to go back.",
                fix="Read parameters through ck.params where a replay must be possible, edit with "
                "ck.meta.rename(…, optional=True), or say the revision with --from.",
            )

    def apply(self, edit: MetaEdit) -> tuple[Meta, MetaEdit]:
        """The metadata after an edit, and the edit with the old value that it replaced."""
        if not self.is_known:
            return self, edit
        old: object = ABSENT
        if meta_tree.has(self.tree, edit.path):
            old = meta_tree.get(self.tree, edit.path)
        tree = self._edited(edit)
        self._require_texts(tree, edit)
        self._require_weights(tree, edit)
        return replace(self, tree=tree), replace(edit, old=old)

    def _edited(self, edit: MetaEdit) -> object:
        if edit.optional and not meta_tree.has(self.tree, edit.path):
            return self.tree
        match edit.kind:
            case "rename":
                return meta_tree.rename(self.tree, edit.path, edit.new)
            case "set":
                return meta_tree.set_value(self.tree, edit.path, edit.value)
            case "drop":
                return meta_tree.drop(self.tree, edit.path)

    def _require_texts(self, tree: object, edit: MetaEdit) -> None:
        if not self.text_only or tree is self.tree:
            return
        for key, value in (entries_of(tree) or {}).items():
            if not isinstance(value, dict if key in self.free else str):
                wanted = "The metadata of a safetensors file are texts."
                if key in self.free:
                    wanted = f"'{key}' stands for a JSON object."
                raise refuse(
                    "CKM574",
                    f"metadata '{edit.new or edit.path}' cannot be a {type(value).__name__} here",
                    why=wanted,
                    fix="Give a dict." if key in self.free else "Give text, such as str(value).",
                )

    def _require_weights(self, tree: object, edit: MetaEdit) -> None:
        if self.weights is None or tree is self.tree:
            return
        before, after = _tensors(self.tree, self.weights), _tensors(tree, self.weights)
        if before != after:
            where = ".".join(map(str, self.weights)) or "the top level"
            raise refuse(
                "CKM576",
                f"editing metadata '{edit.path}' would change the state dict at {where}",
                why="Beside its tensors a state dict holds nothing that a model could load.",
                fix="Ask first whether the file has a place for it: if 'PATH' in ck.meta.",
            )


def is_unknown_metadata(error: CkmigrateError) -> bool:
    """Whether a replay stopped because a script reads metadata."""
    return error.code == "CKM573"


def _tensors(tree: object, path: Path) -> list[int] | None:
    """What makes a state dict this one; None where there is none."""
    try:
        node = child(tree, path)
    except (KeyError, IndexError):
        return None
    if not is_state_dict(node):
        return None
    return [id(value) for value in (entries_of(node) or {}).values() if isinstance(value, Tensor)]
