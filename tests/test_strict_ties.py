"""A single file must hold every name of a tied model: a strict load ties nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.projects import Zoo, load

MODEL = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.emb.weight


def build():
    return Tied()
"""
OLD = {"old.weight": torch.arange(8.0).reshape(4, 2)}


@pytest.mark.parametrize("name", ["old.pt", "old.safetensors"])
def test_a_result_without_a_tied_name_is_refused_with_the_call_that_adds_it(
    tmp_path: Path, name: str
) -> None:
    zoo = Zoo(tmp_path / "zoo", "ck.rename('old.{p}', 'emb.{p}')", model=MODEL)
    error = zoo.refusal(zoo.save(OLD, name), f"new{Path(name).suffix}")
    assert error.code == "CKM601"
    assert any("head.weight" in line for line in error.details)
    assert 'ck.tie("emb.weight", "head.weight")' in (error.fix or "")


@pytest.mark.parametrize("name", ["old.pt", "old.safetensors"])
def test_the_call_that_the_error_names_gives_a_file_that_loads_strictly(
    tmp_path: Path, name: str
) -> None:
    body = "ck.rename('old.{p}', 'emb.{p}')\nck.tie('emb.weight', 'head.weight')"
    zoo = Zoo(tmp_path / "zoo", body, model=MODEL)
    new = load(zoo.upgrade(zoo.save(OLD, name)))
    assert set(new) == {"emb.weight", "head.weight"}
    assert torch.equal(new["emb.weight"], OLD["old.weight"])
    assert torch.equal(new["head.weight"], OLD["old.weight"])
