"""Whether an entry that went and one that came could be the same, in some way or other.

Where they could, neither is dropped nor made anew without asking. The answer errs on the side of
yes: an operation that would have to change everything about a tensor is still one.
"""

from __future__ import annotations

from ckmigrate.spec import TensorSpec

__all__ = ["could_be"]


def could_be(old: TensorSpec, new: TensorSpec) -> bool:
    """Renamed, resized, reshaped, stacked or part of it: equal kinds of numbers, and as many
    dimensions, or elements, or one a multiple of the other."""
    if old.dtype.kind != new.dtype.kind:
        return False
    if old.ndim == new.ndim:
        return True
    few, many = sorted((old.numel, new.numel))
    return few == many or (few > 1 and many % few == 0)
