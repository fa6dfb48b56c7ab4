"""The tensors of a file, as torch sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.spec import DType
from ckmigrate.training.layouts import find_weights
from tests.projects import Zoo, same


@pytest.mark.parametrize("dtype", [d for d in DType if d.torch_name and d.bits >= 8], ids=str)
def test_torch_sees_the_tensors_of_a_file_as_they_are(tmp_path: Path, dtype: DType) -> None:
    zoo = Zoo(tmp_path)
    kind = getattr(torch, str(dtype.torch_name))
    raw = torch.arange(24 * kind.itemsize, dtype=torch.uint8)
    raw = (raw % 2 if dtype is DType.BOOL else raw).view(kind).reshape(4, 6)
    state = {"a": raw, "t": raw.t(), "scalar": raw[1, 1], "empty": raw[:0]}
    stored = open_checkpoint(zoo.save(state))
    entries = find_weights(stored).entries
    with loaded_tensors(stored, entries) as tensors:
        for name, tensor in state.items():
            assert tensors[name].dtype == kind
            assert tensors[name].shape == tensor.shape
            assert same({name: tensors[name]}, {name: tensor})
