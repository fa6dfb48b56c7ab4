"""Buffers of torch's own modules are told by their names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from ckmigrate.training.buffers import torch_buffers
from tests.training.states import spec_of


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(3, 4), "weight", amount=2)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(pruned()),
        lambda: spectral_norm(nn.Linear(3, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(3, 4)),
        lambda: weight_norm(nn.Linear(3, 4)),
        lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    ],
)
def test_exactly_the_buffers_are_found(make: Callable[[], nn.Module]) -> None:
    model = make()
    weights = {name: spec_of(tensor) for name, tensor in model.state_dict().items()}
    assert torch_buffers(weights) == dict(model.named_buffers()).keys()
