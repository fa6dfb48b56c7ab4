"""The nested dict that a distributed checkpoint was saved from, and its leaves again.

DCP saves a nested dict as leaves with paths: mappings are always entered, and lists that hold
tensors, mappings or such lists. Everything else is one leaf. Empty mappings leave no trace.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Final

from ckmigrate.errors import StorageError
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of

__all__ = ["leaves_of", "nested"]

_DEEPEST: Final = 100
_GAP: Final = 1000


def nested(leaves: Mapping[Path, object], *, where: str) -> dict[object, object]:
    """The tree with these leaves; StorageError CKM780 where two of them need one place, or a list
    is mostly gaps."""
    root: dict[object, object] = {}
    inner: set[int] = {id(root)}
    for path, leaf in leaves.items():
        node = root
        for step in path[:-1]:
            if step not in node:
                node[step] = {}
                inner.add(id(node[step]))
            below = node[step]
            if not isinstance(below, dict) or id(below) not in inner:
                raise _clash(path, where)
            node = below
        if path[-1] in node:
            raise _clash(path, where)
        node[path[-1]] = leaf
    return {key: _with_lists(node, inner, where) for key, node in root.items()}


def _with_lists(node: object, inner: Container[int], where: str) -> object:
    if not isinstance(node, dict) or id(node) not in inner:
        return node
    made = {key: _with_lists(part, inner, where) for key, part in node.items()}
    if not made or all(isinstance(key, str) for key in made):
        return made
    if any(isinstance(key, str) for key in made) or max(made) > len(made) + _GAP:
        raise _clash((next(iter(made)),), where)
    return [made.get(index) for index in range(max(made) + 1)]


def _clash(path: Path, where: str) -> StorageError:
    return StorageError(
        "CKM780",
        ".metadata is not that of a distributed checkpoint",
        where=where,
        why=f"what it says of {'.'.join(map(str, path))!r:.120} does not fit the paths of others",
        fix="Copy or save the checkpoint again.",
    )


def leaves_of(tree: object, whole: Mapping[Path, object]) -> Iterator[tuple[Path, object]]:
    """The leaves that DCP would save of a tree, with their paths.

    whole  nodes that are leaves where they stand at their paths, whatever is in them
    """
    yield from _leaves(tree, (), whole)


def _leaves(
    node: object, path: Path, whole: Mapping[Path, object]
) -> Iterator[tuple[Path, object]]:
    entries = entries_of(node)
    if path and path in whole and whole[path] is node:
        yield path, node
    elif len(path) > _DEEPEST:
        what = "the checkpoint is nested too deeply for a distributed checkpoint"
        raise StorageError("CKM736", what, fix="Write a .pt file.")
    elif entries is not None:
        for key, part in entries.items():
            yield from _leaves(part, (*path, str(key)), whole)
    elif isinstance(node, list) and not _is_leaf(node):
        for index, part in enumerate(node):
            yield from _leaves(part, (*path, index), whole)
    elif path:
        yield path, node


def _is_leaf(node: list[object], depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return True
    return not any(
        isinstance(part, Tensor)
        or entries_of(part) is not None
        or (isinstance(part, list) and not _is_leaf(part, depth + 1))
        for part in node
    )
