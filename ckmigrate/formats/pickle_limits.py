"""How deep a tree is, and how large it unfolds: walked without recursion, cycles and all.

A file of a few kilobytes can describe lists inside lists for a million levels, or a list that
holds the same list twice, fifty times over. What walks a tree later may then rely on the limits.
"""

from __future__ import annotations

from typing import Final

from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.pickle_tensors import StorageView
from ckmigrate.formats.tree import Object, Tensor

__all__ = ["MAX_DEPTH", "check_limits", "content"]

MAX_DEPTH: Final = 200
_FREE_NODES: Final = 1_000_000
_NODES_PER_BYTE: Final = 16

_FLAT: Final = frozenset({str, int, float, bool, bytes, type(None), complex, bytearray})


def check_limits(tree: object, nbytes: int) -> None:
    """BadPickle when a tree read from `nbytes` of pickle is deeper than MAX_DEPTH containers, or
    would be larger than a million nodes and 16 per byte if nothing in it were shared.

    A container inside itself counts once. An Object, its arguments and its state are three levels.
    """
    depths: dict[int, int] = {}
    sizes: dict[int, int] = {}
    limit = _FREE_NODES + _NODES_PER_BYTE * nbytes
    path = [(tree, *_parts(tree))]
    pending = [iter(path[0][1])]
    opened = {id(tree)}
    while path:
        part = next(pending[-1], None)
        if part is not None:
            if id(part) not in opened:
                opened.add(id(part))
                path.append((part, *_parts(part)))
                pending.append(iter(path[-1][1]))
            continue
        node, parts, leaves = path.pop()
        pending.pop()
        depths[id(node)] = 1 + max((depths.get(id(p), 0) for p in parts), default=0)
        sizes[id(node)] = 1 + leaves + sum(sizes.get(id(p), 0) for p in parts)
        if depths[id(node)] > MAX_DEPTH:
            raise BadPickle(f"it is nested deeper than {MAX_DEPTH} levels")
        if sizes[id(node)] > limit:
            raise BadPickle("it holds the same containers over and over", why="a bomb unfolds so")


def _parts(node: object) -> tuple[list[object], int]:
    """The containers in a node, and how many leaves it has beside them."""
    inner = content(node)
    containers = [part for part in inner if part is not None and type(part) not in _FLAT]
    for part in containers:
        if isinstance(part, StorageView):
            raise BadPickle("a view of a storage without a tensor is not supported", code="CKM713")
    return containers, len(inner) - len(containers)


def content(node: object) -> list[object]:
    """The nodes directly in a node, keys and all; of a tensor its attributes."""
    if isinstance(node, dict):
        return [*node, *node.values()]
    if isinstance(node, list | tuple | set | frozenset):
        return list(node)
    if isinstance(node, Object):
        return [node.args, node.kwargs, node.items, node.entries, node.state]
    if isinstance(node, Tensor):
        return [node.attributes]
    return []
