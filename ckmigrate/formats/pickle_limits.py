"""How deep a tree is, and how large it unfolds: walked without recursion, cycles and all.

A file of a few kilobytes can describe lists inside lists for a million levels, or a list that
holds the same list twice, fifty times over. What walks a tree later may then rely on the limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.pickle_tensors import StorageView
from ckmigrate.formats.tree import Object, Tensor

__all__ = ["FLAT", "MAX_DEPTH", "check_limits", "content"]

MAX_DEPTH: Final = 200
_FREE_NODES: Final = 1_000_000
_NODES_PER_BYTE: Final = 16

FLAT: Final = frozenset({str, int, float, bool, bytes, type(None), complex, bytearray})
"""Types of nodes that have nothing in them."""
_MEMBERS: Final = (tuple, list, set, frozenset)


def check_limits(tree: object, nbytes: int) -> None:
    """BadPickle when a tree read from `nbytes` of pickle is deeper than MAX_DEPTH containers, or
    would be larger than a million nodes and 16 per byte if nothing in it were shared.

    A container inside itself counts once. An Object, its arguments and its state are three levels.
    """
    limit = _FREE_NODES + _NODES_PER_BYTE * nbytes
    measured: dict[int, tuple[int, int]] = {}
    above: list[tuple[object, Iterator[object], int, int]] = []
    begun = {id(tree)}
    node, parts, depth, size = tree, iter(content(tree)), 0, 1
    while True:
        for part in parts:
            if type(part) in FLAT:
                size += 1
            elif id(part) in measured:
                deep, large = measured[id(part)]
                depth, size = max(depth, deep), size + large
            elif id(part) not in begun:
                _require_no_view(part)
                begun.add(id(part))
                above.append((node, parts, depth, size))
                node, parts, depth, size = part, iter(content(part)), 0, 1
                break
        else:
            deep, large = measured[id(node)] = depth + 1, size
            if deep > MAX_DEPTH:
                raise BadPickle(f"it is nested deeper than {MAX_DEPTH} levels")
            if large > limit:
                raise BadPickle(
                    "it holds the same containers over and over", why="a bomb unfolds so"
                )
            if not above:
                return
            node, parts, depth, size = above.pop()
            depth, size = max(depth, deep), size + large


def _require_no_view(node: object) -> None:
    if isinstance(node, StorageView):
        raise BadPickle("a view of a storage without a tensor is not supported", code="CKM713")


def content(node: object) -> list[object]:
    """The nodes directly in a node, keys and all; of a tensor its attributes.
    Of an Object, parts that are empty are left out."""
    if isinstance(node, dict):
        return [*node, *node.values()]
    if isinstance(node, _MEMBERS):
        return list(node)
    if isinstance(node, Object):
        parts = (node.args, node.kwargs, node.items, node.entries, node.state)
        return [part for part in parts if part]
    if isinstance(node, Tensor):
        return [node.attributes]
    return []
