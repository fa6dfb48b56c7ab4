"""Proof by content: real files, whose bytes say what became what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ckmigrate.autogenerate.content import confirmed, equal_entries, open_contents
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.settle import Side
from ckmigrate.opened import Opened, Request, open_weights
from ckmigrate.project import Project
from ckmigrate.snapshot import Snapshot
from tests.autogenerate.drafts import proposal

State = Mapping[str, Tensor]

torch.manual_seed(0)
A, B, C = (torch.randn(4, 4) for _ in range(3))


def opened(folder: Path, state: State, name: str) -> Opened:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    else:
        torch.save(dict(state), path)
    project = Project(root=folder, config_path=folder, name="x", migrations=folder)
    return open_weights(path, project, Request())


def equal(folder: Path, old: State, new: State, suffix: str = ".safetensors") -> dict[str, str]:
    files = opened(folder, old, f"old{suffix}"), opened(folder, new, f"new{suffix}")
    with open_contents(*files) as contents:
        return equal_entries(contents)


def certainties(folder: Path, old: State, new: State, *proposals: Proposal) -> list[Proposal]:
    files = opened(folder, old, "old.pt"), opened(folder, new, "new.pt")
    before, after = (Snapshot(f.schema, f.layout.ties, "default") for f in files)
    side = Side(before, after)
    with open_contents(*files) as contents:
        return list(confirmed(Draft(proposals), side, contents).proposals)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_equal_content_under_another_name_is_a_rename(tmp_path: Path, suffix: str) -> None:
    found = equal(tmp_path, {"a": A, "b": B, "c": C}, {"x": B, "y": A, "c": C}, suffix)
    assert found == {"x": "b", "y": "a"}


def test_duplicates_and_constants_prove_nothing(tmp_path: Path) -> None:
    ones, zeros = torch.ones(4), torch.zeros(4)
    old = {"a": A, "b": A.clone(), "n": ones, "z": zeros, "c": C, "k": torch.tensor(7)}
    new = {"x": A, "m": ones, "w": zeros, "c1": C, "c2": C.clone(), "j": torch.tensor(7)}
    assert equal(tmp_path, old, new) == {}


def test_shape_and_dtype_belong_to_the_content(tmp_path: Path) -> None:
    old = {"a": A, "b": B}
    new = {"x": A.reshape(2, 8), "y": B.view(torch.int32)}
    assert equal(tmp_path, old, new) == {}


def test_tied_names_are_one_tensor(tmp_path: Path) -> None:
    found = equal(tmp_path, {"a": A, "tied": A}, {"x": A, "also": A}, ".pt")
    assert found in ({"x": "a"}, {"also": "a"})


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool]
)
def test_every_dtype_is_compared_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = (torch.arange(16) % 3).to(dtype)
    nan = torch.tensor([0x7FC00001, 0x7FC00002], dtype=torch.int32).view(torch.float32)
    other = torch.tensor([0x7FC00001, 0x7FC00003], dtype=torch.int32).view(torch.float32)
    found = equal(tmp_path, {"a": tensor, "n": nan}, {"b": tensor, "m": other}, ".pt")
    assert found == {"b": "a"}


def test_content_that_stands_twice_proves_no_proposal(tmp_path: Path) -> None:
    move = proposal("rename", 'ck.rename("{a,b}", "{x,y}")', "guess", sources=("a", "b"))
    old, new = {"a": A, "b": A.clone()}, {"x": A, "y": A.clone()}
    assert certainties(tmp_path, old, new, move) == [move]


def test_a_split_is_proved_in_its_order(tmp_path: Path) -> None:
    old, new = {"qkv": torch.cat([A, B, C])}, {"q": A, "k": B, "v": C}
    right = proposal("split", 'ck.split("qkv", ["q", "k", "v"])', "guess", sources=("qkv",))
    wrong = proposal("split", 'ck.split("qkv", ["k", "q", "v"])', "guess", right, sources=("qkv",))
    (proved,) = certainties(tmp_path, old, new, wrong)
    assert (proved.call, proved.certainty) == (right.call, "certain")
    assert "proved" in proved.why
    (same,) = certainties(tmp_path, old, {"q": A, "k": B, "v": A + 1}, right)
    assert same == right


def test_a_transpose_is_proved_of_a_square_matrix(tmp_path: Path) -> None:
    turned = proposal("transpose", 'ck.transpose("w", 0, 1)', "ambiguous", sources=("w",))
    (proved,) = certainties(tmp_path, {"w": A}, {"w": A.t().contiguous()}, turned)
    assert proved.certainty == "certain"
    (not_proved,) = certainties(tmp_path, {"w": A}, {"w": A}, turned)
    assert not_proved == turned


def test_a_constant_entry_is_led_by_its_neighbour(tmp_path: Path) -> None:
    ones = torch.ones(4)
    move = proposal(
        "rename", 'ck.rename("a.{p}", "x.{p}")', "guess", sources=("a.weight", "a.bias")
    )
    (led,) = certainties(
        tmp_path, {"a.weight": A, "a.bias": ones}, {"x.weight": A, "x.bias": ones}, move
    )
    assert led.certainty == "certain"
    (alone,) = certainties(
        tmp_path, {"a.weight": ones, "a.bias": ones}, {"x.weight": ones, "x.bias": ones}, move
    )
    assert alone == move


def test_the_whole_way_of_a_tensor_is_looked_at(tmp_path: Path) -> None:
    first = proposal("rename", 'ck.rename("m.**", "n.**")', "guess", sources=("m.w",))
    second = proposal("transpose", 'ck.transpose("n.w", 0, 1)', "guess", sources=("n.w",))
    found = certainties(tmp_path, {"m.w": A}, {"n.w": A.t().contiguous()}, first, second)
    assert [p.certainty for p in found] == ["certain", "certain"]
    kept = certainties(tmp_path, {"m.w": A}, {"n.w": B}, first, second)
    assert kept == [first, second]


def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    import tracemalloc

    big = torch.arange(16 << 20, dtype=torch.float32)
    files = (
        opened(tmp_path, {"a": big}, "old.safetensors"),
        opened(tmp_path, {"b": big}, "new.safetensors"),
    )
    del big
    tracemalloc.start()
    with open_contents(*files) as contents:
        assert equal_entries(contents) == {"b": "a"}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
