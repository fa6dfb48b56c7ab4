"""Whether boxes tile a tensor exactly: each inside of it, none over another, and nothing left."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

__all__ = ["is_run", "tiling_fault"]

_MOST_COMPARED = 5_000_000

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""(offsets, sizes)."""


def tiling_fault(shape: tuple[int, ...], boxes: Sequence[Box]) -> str | None:
    """Why the boxes do not tile a tensor of this shape; None where they do.

    A box without elements takes no room, and only has to be inside.
    """
    for offsets, sizes in boxes:
        if len(offsets) != len(shape) or len(sizes) != len(shape):
            return f"a chunk has {len(sizes)} dimensions, the tensor has {len(shape)}"
        if any(o + n > size for o, n, size in zip(offsets, sizes, shape, strict=True)):
            return f"the chunk at {list(offsets)} of {list(sizes)} is not inside of {list(shape)}"
    full: list[Box] = [box for box in boxes if all(box[1])]
    total = prod(shape)
    overlap = _overlap(full) if shape else _several(full)
    if overlap is not None:
        return overlap
    covered = sum(prod(sizes) for _, sizes in full)
    if covered != total:
        return f"the chunks have {covered} elements, the tensor has {total}"
    return None


def is_run(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether the elements of a box are neighbours in the row-major order of the tensor."""
    dims = [(n, size) for n, size in zip(sizes, shape, strict=True) if size != 1]
    while dims and dims[-1][0] == dims[-1][1]:
        dims.pop()
    return all(n == 1 for n, _ in dims[:-1])


def _several(boxes: Sequence[Box]) -> str | None:
    """The same for a single number."""
    return f"{len(boxes)} chunks hold the same number" if len(boxes) > 1 else None


def _overlap(boxes: Sequence[Box]) -> str | None:
    """Two boxes that lie over each other. They are swept along the dimension in which they begin
    at the most places, so that few are open at once."""
    dims = range(len(boxes[0][0])) if boxes else ()
    dim = max(dims, key=lambda d: len({offsets[d] for offsets, _ in boxes}), default=0)
    opened: list[Box] = []
    compared = 0
    for box in sorted(boxes, key=lambda box: box[0][dim]):
        opened = [other for other in opened if other[0][dim] + other[1][dim] > box[0][dim]]
        compared += len(opened)
        if compared > _MOST_COMPARED:
            return "there are too many chunks beside each other to be compared"
        for other in opened:
            if _is_over(box, other):
                return f"the chunks at {list(other[0])} and {list(box[0])} lie over each other"
        opened.append(box)
    return None


def _is_over(one: Box, other: Box) -> bool:
    return all(
        a < b + m and b < a + n
        for a, n, b, m in zip(one[0], one[1], other[0], other[1], strict=True)
    )
