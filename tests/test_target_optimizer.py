"""The optimizers that the project's code makes, and which parameters their groups hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckmigrate.errors import UsageError
from ckmigrate.target_optimizer import Groups, load_groups

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embed.weight

"""
Load = Callable[[str], Groups]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    numbers = itertools.count()

    def run(body: str) -> Groups:
        name = f"train_{abs(hash(tmp_path))}_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        return load_groups(f"{name}:make", f"{name}:Net", "default", python_path=[tmp_path])

    return run


def test_groups_are_those_of_the_real_optimizer(load: Load) -> None:
    body = """
def make(model):
    plain = [p for n, p in model.named_parameters() if p.ndim < 2]
    return torch.optim.AdamW([{"params": [model.embed.weight]}, {"params": plain}])
"""
    assert load(body) == ((("embed.weight",), ("norm.weight", "norm.bias", "head.bias")),)


def test_several_optimizers(load: Load) -> None:
    body = """
def make(model):
    return [torch.optim.SGD(model.head.parameters()), torch.optim.Adam(model.norm.parameters())]
"""
    assert load(body) == ((("embed.weight", "head.bias"),), (("norm.weight", "norm.bias"),))


def test_one_that_needs_values_gets_a_real_model(load: Load) -> None:
    body = """
def make(model):
    big = [p for p in model.parameters() if float(p.detach().abs().sum()) >= 0]
    return torch.optim.Adagrad(big)
"""
    assert load(body)[0][0][0] == "embed.weight"


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("def make(model): raise ValueError('no')", "CKM218", "ValueError: no"),
        ("def make(model): return 3", "CKM219", "int"),
        ("def make(model): return []", "CKM219", "none"),
        ("def make(model): return torch.optim.Adam(nn.Linear(2, 2).parameters())", "CKM219", "no"),
        ("make = 3", "CKM214", "not a factory"),
    ],
)
def test_what_makes_no_optimizer_is_told(load: Load, body: str, code: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(body)
    error: Any = caught.value
    assert error.code == code
    assert words in f"{error.what} {error.why}"
    assert "optimizer" in f"{error.where} {error.fix}"
