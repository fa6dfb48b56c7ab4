"""Checkpoints that several ranks saved, upgraded by the command, and loaded by ranks again."""

from __future__ import annotations

import pytest
import torch

from tests.cli_project import BASE, IDS, Toy
from tests.dcp_folders import load, metadata_of, ranks
from tests.shards import digest

OLD_MODEL = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)

    def forward(self, x):
        return self.qkv(x)[:, :4]


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))


class Old(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Body()
        self.head = nn.Linear(4, 3)
        self.old = nn.Module()
        self.old.counter = nn.Parameter(torch.ones(1))

    def forward(self, x):
        for layer in self.body.layers:
            x = layer(x)
        return self.head(x) * self.old.counter
"""
SAVE = """
from old_model import Old
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict
from torch.distributed.fsdp import fully_shard


def sharded(model):
    for layer in model.body.layers:
        fully_shard(layer)
    return fully_shard(model)


for name, wrap in {"fsdp": sharded, "ddp": torch.nn.parallel.DistributedDataParallel}.items():
    model = Old()
    model = wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
    flat = StateDictOptions(flatten_optimizer_state_dict=name == "ddp")
    weights, state = get_state_dict(model, optimizer, options=flat)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_model_state_dict(model, options=options)
    moments = get_optimizer_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optim": state, "step": 7}, checkpoint_id=name)
    if rank == 0:
        torch.save({"weights": full, "moments": moments.get("state")}, f"{name}.pt")
"""
LOAD = """
from toy_model import Toy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict import set_state_dict
from torch.distributed.fsdp import fully_shard

for name in ("fsdp", "ddp"):
    model = Toy()
    for layer in model.encoder.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters())
    flat = StateDictOptions(flatten_optimizer_state_dict=name == "ddp", strict=True)
    weights, state = get_state_dict(model, optimizer, options=flat)
    loaded = {"model": weights, "optim": state, "step": 0}
    dcp.load(loaded, checkpoint_id=f"new/{name}")
    set_state_dict(
        model,
        optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optim"],
        options=flat,
    )
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = get_model_state_dict(model, options=options)
    moments = get_optimizer_state_dict(model, optimizer, options=options)
    assert loaded["step"] == 7
    assert optimizer.param_groups[0]["lr"] == 0.01
    if rank == 0:
        wanted = torch.load(f"wanted/{name}.pt")
        assert found.keys() == wanted["weights"].keys()
        for key in found:
            assert torch.equal(found[key], wanted["weights"][key]), key
        assert moments["state"].keys() == wanted["moments"].keys()
        for key, fields in moments["state"].items():
            assert fields.keys() == wanted["moments"][key].keys(), key
            for field, value in fields.items():
                assert torch.equal(value, wanted["moments"][key][field]), (key, field)
"""
NAMES = ("fsdp", "ddp")


def wanted_of(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    new = {"head.weight": old["head.weight"], "head.bias": old["head.bias"]}
    for layer in range(2):
        parts = old[f"body.layers.{layer}.qkv.weight"].chunk(3)
        for letter, part in zip("qkv", parts, strict=True):
            new[f"encoder.layers.{layer}.{letter}.weight"] = part.clone()
    return {**new, "scale": torch.ones(3)}


def moments_of(old: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """By name, then field; what is new has what a new optimizer begins with."""
    fields = old["head.weight"].keys()
    by_field = {
        field: wanted_of({key: state[field] for key, state in old.items()})
        for field in fields
        if field != "step"
    }
    found = {
        key: {field: tensors[key] for field, tensors in by_field.items()}
        for key in by_field["exp_avg"]
    }
    for key, state in found.items():
        state["step"] = torch.tensor(0.0) if key == "scale" else old["head.weight"]["step"]
    found["scale"] |= {field: torch.zeros(3) for field in by_field}
    return found


@pytest.mark.slow
def test_what_two_ranks_saved_is_upgraded_and_loaded_by_two_ranks(toy: Toy) -> None:
    (toy.root / "old_model.py").write_text(OLD_MODEL)
    ranks(toy.root, 2, SAVE, path=[toy.root])
    before = [digest(toy.root / name) for name in NAMES]
    done = toy.run("upgrade", *NAMES, "--out-dir", "new", "--json")
    assert done.code == 0, done.err
    assert {result["verified_by"] for result in done.json["results"]} == {"strict load"}
    assert [digest(toy.root / name) for name in NAMES] == before
    (toy.root / "wanted").mkdir()
    for name in NAMES:
        full = torch.load(toy.root / f"{name}.pt", weights_only=True)
        assert full["weights"].keys() == BASE.keys()
        wanted = wanted_of(full["weights"])
        moments = moments_of(full["moments"])
        torch.save({"weights": wanted, "moments": moments}, toy.root / "wanted" / f"{name}.pt")
        empty = {key: torch.zeros_like(tensor) for key, tensor in wanted.items()}
        found = load(toy.root / "new" / name, {"model": empty})["model"]
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        names = metadata_of(toy.root / "new" / name).state_dict_metadata
        others = {key for key in names if not key.startswith("optim.")}
        assert others == {"step", *(f"model.{key}" for key in wanted)}
        state = {key for key in names if key.startswith("optim.state.")}
        assert state == {f"optim.state.{key}.{f}" for key in wanted for f in moments[key]}
    ranks(toy.root, 2, LOAD, path=[toy.root])
    saved = metadata_of(toy.root / "fsdp").state_dict_metadata
    assert len(saved["model.head.weight"].chunks) == 2
    current = toy.run("current", "new/fsdp", "fsdp", "new/ddp/.metadata", "--json")
    assert [one["revision"] for one in current.json["results"]] == [IDS[-1], None, IDS[-1]]
