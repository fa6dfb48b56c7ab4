"""Walking and changing an inert tree by path: a tuple of mapping keys and list indices.

A changed tree shares every node with the old one that is not on a changed path; no node is ever
mutated. Objects are entered only where they are mappings (OrderedDict, dict subclasses); what a
stand-in of another class holds is opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ckmigrate.formats.tree import Global, Object

__all__ = [
    "Path",
    "child",
    "drop",
    "entries_of",
    "holders",
    "path_after_drop",
    "put",
    "resolve",
    "steps",
    "with_entries",
]

Path = tuple[object, ...]

_MAPPINGS = frozenset({Global("collections", "OrderedDict"), Global("collections", "defaultdict")})


def entries_of(node: object) -> Mapping[object, object] | None:
    """The content of a mapping node (a dict, an OrderedDict, a dict subclass); None of others."""
    if isinstance(node, dict):
        return node
    if isinstance(node, Object) and not node.items and (node.entries or node.factory in _MAPPINGS):
        return node.entries
    return None


def with_entries(node: object, entries: dict[object, object]) -> object:
    """A mapping node of the same kind, with the same attributes and other content."""
    return replace(node, entries=entries) if isinstance(node, Object) else entries


def steps(node: object) -> Iterator[tuple[object, object]]:
    """The (key or index, child) pairs that a path can take from here."""
    entries = entries_of(node)
    if entries is not None:
        yield from entries.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def child(tree: object, path: Path) -> object:
    """The node at `path`; KeyError or IndexError when it is not there."""
    for key in path:
        entries = entries_of(tree)
        if entries is not None:
            tree = entries[key]
        elif isinstance(tree, list | tuple) and isinstance(key, int):
            tree = tree[key]
        else:
            raise KeyError(key)
    return tree


def put(tree: object, path: Path, node: object) -> object:
    """The tree with `node` in the place of what is at `path`, which must exist."""
    if not path:
        return node
    return _with_child(tree, path[0], put(child(tree, path[:1]), path[1:], node))


def resolve(tree: object, dotted: str) -> Path | None:
    """The path that a dotted text means; None where it leads nowhere. A key may contain dots
    itself; the shorter key is tried first."""
    return _resolved(tree, tuple(dotted.split(".")))


def drop(tree: object, paths: Iterable[Path]) -> object:
    """The tree without the nodes at `paths`, which must exist and be no root.

    List indices mean the positions before the call.
    """
    below: dict[object, list[Path]] = {}
    for path in paths:
        below.setdefault(path[0], []).append(path[1:])
    gone = {key for key, rests in below.items() if () in rests}
    for key, rests in below.items():
        if key not in gone:
            tree = _with_child(tree, key, drop(child(tree, (key,)), rests))
        else:
            child(tree, (key,))
    return _without(tree, gone) if gone else tree


def path_after_drop(tree: object, path: Path, gone: Iterable[Path]) -> Path:
    """Where a node of the tree stands once `drop` has left out others."""
    left = [(other[:-1], other[-1]) for other in gone]
    found: list[object] = []
    for depth, key in enumerate(path):
        above = path[:depth]
        if isinstance(child(tree, above), list | tuple) and isinstance(key, int):
            key -= sum(p == above and isinstance(k, int) and k < key for p, k in left)
        found.append(key)
    return tuple(found)


def holders(tree: object, wanted: Callable[[object], bool]) -> frozenset[int]:
    """The ids of all nodes that are wanted or hold a wanted node, however deep.

    Linear in the number of distinct nodes and not recursive: a tree from a hostile file may be
    deep, may contain itself, and may share nodes so often that its paths cannot be counted.
    """
    parents: dict[int, list[int]] = {id(tree): []}
    found: list[int] = []
    queue = [tree]
    while queue:
        node = queue.pop()
        if wanted(node):
            found.append(id(node))
        for part in _parts(node):
            if id(part) not in parents:
                parents[id(part)] = []
                queue.append(part)
            parents[id(part)].append(id(node))
    holding: set[int] = set()
    while found:
        identity = found.pop()
        if identity not in holding:
            holding.add(identity)
            found.extend(parents[identity])
    return frozenset(holding)


def _resolved(node: object, segments: tuple[str, ...]) -> Path | None:
    if not segments:
        return ()
    keys = dict(steps(node))
    for end in range(1, len(segments) + 1):
        text = ".".join(segments[:end])
        key: object = int(text) if isinstance(node, list | tuple) and text.isdecimal() else text
        if key in keys:
            rest = _resolved(keys[key], segments[end:])
            if rest is not None:
                return (key, *rest)
    return None


def _parts(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    if isinstance(node, list | tuple | set | frozenset):
        return node
    if isinstance(node, Object):
        kwargs = (node.kwargs or {}).values()
        return [*node.args, *kwargs, node.state, *node.items, *node.entries.values()]
    return ()


def _with_child(node: object, key: object, part: object) -> object:
    entries = entries_of(node)
    if entries is not None:
        return with_entries(node, {**entries, key: part})
    assert isinstance(node, list | tuple)
    changed = [part if index == key else old for index, old in enumerate(node)]
    return tuple(changed) if isinstance(node, tuple) else changed


def _without(node: object, keys: set[object]) -> object:
    entries = entries_of(node)
    if entries is not None:
        return with_entries(node, {key: part for key, part in entries.items() if key not in keys})
    assert isinstance(node, list | tuple)
    kept = [part for index, part in enumerate(node) if index not in keys]
    return tuple(kept) if isinstance(node, tuple) else kept
