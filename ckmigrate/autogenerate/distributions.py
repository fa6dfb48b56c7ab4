"""Whether the values of a tensor were drawn from a distribution that a formula gives.

The test is Kolmogorov's: the largest distance between the empirical distribution function and the
one that is claimed, which stays below about 2 / √n (one true claim in a thousand is refused). It
tells distributions apart where there are a few dozen values; of fewer, little can be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Law", "fits", "is_orthogonal", "spread"]

_MOST = 20_000
_MOST_ROWS = 2_048
_LARGEST_DISTANCE = 1.95


@dataclass(frozen=True, slots=True)
class Law:
    """A distribution around zero, with the text of the initialiser that draws from it.

    scale  the bound of a uniform one, the standard deviation of a normal one
    """

    kind: Literal["uniform", "normal"]
    scale: float
    text: str


def fits(law: Law, values: torch.Tensor) -> bool:
    """Whether the values may be of this law."""
    import torch

    some = values.detach().flatten()
    some = some[:: max(1, some.numel() // _MOST)].double().sort().values
    if law.kind == "uniform":
        claimed = ((some / law.scale + 1) / 2).clamp(0, 1)
        if some.abs().max() > law.scale * (1 + 1e-6):
            return False
    else:
        claimed = torch.special.ndtr(some / law.scale)
    count = some.numel()
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum(steps[1:] - claimed, claimed - steps[:-1]).max()
    return float(distance) <= _LARGEST_DISTANCE / math.sqrt(count)


def spread(values: torch.Tensor) -> float:
    """The root mean square: the standard deviation around zero."""
    return float(values.detach().double().square().mean().sqrt())


def is_orthogonal(values: torch.Tensor) -> bool:
    """Whether rows, or columns, are orthonormal."""
    import torch

    if values.ndim < 2 or 0 in values.shape:
        return False
    rows = values.detach().double().flatten(1)
    if not 1 < min(rows.shape) <= _MOST_ROWS:
        return False
    square = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return bool(torch.allclose(square, torch.eye(len(square), dtype=square.dtype), atol=1e-4))
