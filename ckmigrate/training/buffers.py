"""Entries of a state dict that are buffers of torch's own modules, told by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ckmigrate.spec import TensorSpec

__all__ = ["torch_buffers"]

_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Of normalisation layers."""

_BESIDE = (
    (re.compile(r"(.*)_mask"), r"\1_orig"),
    (re.compile(r"(.*)_[uv]"), r"\1_orig"),
    (re.compile(r"((?:.*\.)?parametrizations\.[^.]+)\.\d+\._[uv]"), r"\1.original"),
)
"""Names, and the name that stands beside each: the masks of `torch.nn.utils.prune`, and the vectors
of `spectral_norm`, old and parametrized. (`weight_g` and `weight_v` of `weight_norm`, which have no
`weight_orig`, are parameters.)"""


def torch_buffers(weights: Mapping[str, TensorSpec]) -> frozenset[str]:
    """Names that are no parameters: those above, and whatever has no gradient for its dtype."""
    return frozenset(name for name, spec in weights.items() if _is_buffer(name, spec, weights))


def _is_buffer(name: str, spec: TensorSpec, weights: Mapping[str, TensorSpec]) -> bool:
    if spec.dtype.kind not in ("float", "complex") or name.rpartition(".")[2] in _BUFFERS:
        return True
    found = ((pattern.fullmatch(name), beside) for pattern, beside in _BESIDE)
    return any(match is not None and match.expand(beside) in weights for match, beside in found)
