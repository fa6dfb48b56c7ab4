"""Copies of weights that do not repeat their names: lists of averages, moments of an optimizer of
one's own. What gives them away is that they have the shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckmigrate.formats.pickle_limits import content
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path

__all__ = ["resembling"]

_FEWEST = 2
"""A single tensor may have the shape of a weight by chance."""


def resembling(nodes: Sequence[tuple[Path, object]], weights: Iterable[Tensor]) -> dict[Path, int]:
    """The paths of nodes that look like copies of weights, with the number of tensors there.

    A node is judged by all tensors inside of it, opaque objects included; one that is too small to
    tell, together with the others below the same key of the top level.
    """
    shapes = frozenset(t.spec.shape for t in weights if t.spec.dtype.kind == "float")
    inside = {path: _tensors(node) for path, node in nodes}
    found = {path for path, tensors in inside.items() if _resembles(tensors, shapes)}
    beside: dict[object, list[Path]] = {}
    for path in inside:
        if path not in found and any(t.spec.shape in shapes for t in inside[path]):
            beside.setdefault(path[0], []).append(path)
    for paths in beside.values():
        if _resembles([t for path in paths for t in inside[path]], shapes):
            found.update(paths)
    return {path: len(inside[path]) for path in inside if path in found}


def _resembles(tensors: Sequence[Tensor], shapes: frozenset[tuple[int, ...]]) -> bool:
    """Most of the float tensors have shapes of weights, and not only those of vectors, which
    statistics of data have as well."""
    numbers = [t.spec.shape for t in tensors if t.spec.dtype.kind == "float" and t.spec.ndim]
    same = [shape for shape in numbers if shape in shapes]
    has_matrix = any(len(shape) > 1 for shape in same)
    return len(same) >= _FEWEST and 2 * len(same) >= len(numbers) and has_matrix


def _tensors(node: object) -> list[Tensor]:
    found: list[Tensor] = []
    seen, queue = {id(node)}, [node]
    while queue:
        part = queue.pop()
        if isinstance(part, Tensor):
            found.append(part)
            continue
        for inner in content(part):
            if id(inner) not in seen:
                seen.add(id(inner))
                queue.append(inner)
    return found
