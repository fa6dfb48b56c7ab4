"""Files of training state beside the weights of a folder: read, left out, written anew."""

from __future__ import annotations

import importlib
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.swa_utils import AveragedModel

from ckmigrate.errors import StorageError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.base import Stored
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import child
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.migrate import carry_out, open_weights
from ckmigrate.snapshot import Snapshot, render_snapshot
from ckmigrate.training.layouts import find_weights
from tests.fast import change, take_back
from tests.projects import Zoo, load, same, schema_of
from tests.room import with_room
from tests.shards import digest
from tests.training_folders import Arguments, accelerated, step, trainer

RENAME = "ck.rename('0.{p}', 'first.{p}')"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def trained(model: nn.Module) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    return optimizer


def found(stored: Stored) -> dict[tuple[object, ...], tuple[str, bool]]:
    return {o.path: (o.kind, o.is_readable) for o in find_weights(stored).training_state}


def why(stored: Stored, name: str) -> str:
    (outside,) = (o for o in find_weights(stored).training_state if o.path == (name,))
    assert not outside.is_readable
    return outside.description


# --- reading ----------------------------------------------------------------------------------


def test_the_optimizer_of_a_trainer_is_found_with_its_values(tmp_path: Path) -> None:
    model = net()
    optimizer = trained(model)
    stored = open_checkpoint(trainer(tmp_path / "checkpoint-2", model, optimizer))
    assert found(stored) == {("optimizer.pt",): ("optimizer", True)}
    node = child(stored.state_tree, ("optimizer.pt", "state", 2, "exp_avg"))
    assert isinstance(node, Tensor)
    record = stored.records[node.storage.key]
    assert stored.files[record.file].path.name == "optimizer.pt"
    with loaded_tensors(stored, {"moment": node}) as values:
        assert torch.equal(values["moment"], optimizer.state_dict()["state"][2]["exp_avg"])


def test_each_optimizer_of_accelerate_is_found_and_no_random_state(tmp_path: Path) -> None:
    model = net()
    optimizers = [trained(model[0]), trained(model[1])]
    stored = open_checkpoint(accelerated(tmp_path / "state", model, optimizers, {"epoch": 3}))
    both = ("optimizer.bin",), ("optimizer_1.bin",)
    assert found(stored) == dict.fromkeys(both, ("optimizer", True))
    keys = {
        node.storage.key
        for path in both
        for index in (0, 1)
        if isinstance(node := child(stored.state_tree, (*path, "state", index, "exp_avg")), Tensor)
    }
    assert len(keys) == 4, "storages of two files have two keys"


def test_a_registered_average_is_a_copy_of_the_weights(tmp_path: Path) -> None:
    model = net()
    average = AveragedModel(model).state_dict()
    folder = accelerated(tmp_path / "state", model, [], average, {"model": average, "epoch": 2})
    torch.save(model.state_dict(), folder / "model_ema.pt")
    assert found(open_checkpoint(folder)) == {
        ("custom_checkpoint_0.pkl",): ("copy", True),
        ("custom_checkpoint_1.pkl", "model"): ("copy", True),
        ("model_ema.pt",): ("copy", True),
    }


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    folder = accelerated(tmp_path / "state", net(), [])
    names = "schema.bin", "lemma.pt", "sub/optimizer.pt", "optimizers.py", "rng_state_0.pth"
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no checkpoint")
    assert not open_checkpoint(folder).beside.trees
    assert not open_checkpoint(folder).beside.faults
    assert found(open_checkpoint(folder)) == {}


def test_a_file_that_cannot_be_read_is_stale_with_its_reason(tmp_path: Path) -> None:
    model = net()
    folder = accelerated(tmp_path / "state", model, [])
    (folder / "optimizer.bin").write_text("state")
    (folder / "optimizer_1.bin").write_bytes(b"")
    torch.save(Arguments(), folder / "optimizer_2.bin")
    torch.save(model.state_dict(), folder / "optimizer_3.bin", _use_new_zipfile_serialization=False)
    torch.save({"lr": 1}, folder / "optimizer_4.bin")
    torch.save(Arguments(), folder / "model_ema.pt")
    torch.save(Arguments(), folder / "custom_checkpoint_0.pkl")
    (folder / "optimizer_5").mkdir()
    (folder / "optimizer_5" / ".metadata").write_bytes(b"")
    stored = open_checkpoint(folder)
    assert "optimizer.bin is a text file" in why(stored, "optimizer.bin")
    assert "empty" in why(stored, "optimizer_1.bin")
    assert "tests.training_folders.Arguments" in why(stored, "optimizer_2.bin")
    assert "before 1.6" in why(stored, "optimizer_3.bin")
    assert "no state and param_groups" in why(stored, "optimizer_4.bin")
    assert "Arguments" in why(stored, "model_ema.pt")
    assert [path for path in found(stored) if str(path[0]).startswith("custom")] == []


def test_a_class_that_is_carried_lets_a_file_be_read(tmp_path: Path) -> None:
    model = net()
    state = trained(model).state_dict() | {"arguments": Arguments()}
    folder = trainer(tmp_path / "ck", model, trained(model), **{"optimizer_1.bin": state})
    assert found(open_checkpoint(folder))["optimizer_1.bin",] == ("optimizer", False)
    stored = open_checkpoint(folder, carry=("tests.training_folders.Arguments",))
    assert found(stored)["optimizer_1.bin",] == ("optimizer", True)


# --- writing ----------------------------------------------------------------------------------


def zoo_of(folder: Path, model: nn.Module) -> Zoo:
    return Zoo(folder, RENAME, base=model.state_dict())


def test_a_stale_file_is_left_out_and_the_others_come_along(tmp_path: Path) -> None:
    model = net()
    zoo = zoo_of(tmp_path / "p", model)
    folder = trainer(zoo.folder / "checkpoint-2", model, trained(model))
    new = zoo.upgrade(folder, "new", optimizer="drop")
    assert set(os.listdir(folder)) - set(os.listdir(new)) == {"optimizer.pt"}
    for name in ("scheduler.pt", "training_args.bin", "rng_state.pth", "trainer_state.json"):
        assert (new / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_left_out_of_a_file_leaves_the_rest_of_it(tmp_path: Path) -> None:
    model = net()
    zoo = zoo_of(tmp_path / "p", model)
    noise = torch.randn(7)
    rest = {"epoch": 2, "noise": noise, "step": torch.tensor(3)}
    registered = {"ema": AveragedModel(model).state_dict(), **rest}
    folder = accelerated(zoo.folder / "state", model, [], registered, rest)
    new = zoo.upgrade(folder, "new", ema="drop")
    written = torch.load(new / "custom_checkpoint_0.pkl", weights_only=True)
    assert written.keys() == rest.keys()
    assert torch.equal(written["noise"], noise)
    same = "custom_checkpoint_1.pkl"
    assert (new / same).read_bytes() == (folder / same).read_bytes()


def test_a_tag_alone_changes_no_file_beside_the_weights(tmp_path: Path) -> None:
    model = net()
    zoo = Zoo(tmp_path / "p", base=model.state_dict())
    folder = trainer(zoo.folder / "checkpoint-2", model, trained(model))
    before, after = digest(folder), digest(zoo.upgrade(folder, "new"))
    assert before is not None
    assert after is not None
    assert {name for name in before if before[name] != after.get(name)} == {"model.safetensors"}


def test_a_file_that_changes_meanwhile_is_no_source(tmp_path: Path) -> None:
    model = net()
    zoo = zoo_of(tmp_path / "p", model)
    folder = trainer(zoo.folder / "checkpoint-2", model, trained(model))
    request = zoo.request(folder, optimizer="drop")
    prepared = zoo.prepare(folder, request)
    os.utime(folder / "optimizer.pt", ns=(1, 1))
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(zoo.folder / "new"))
    assert (caught.value.code, "optimizer.pt" in caught.value.what) == ("CKM753", True)


def test_damage_beside_the_weights_is_found_before_anything_is_written(tmp_path: Path) -> None:
    model = net()
    zoo = zoo_of(tmp_path / "p", model)
    registered = {"ema": AveragedModel(model).state_dict(), "noise": torch.zeros(64)}
    folder = accelerated(zoo.folder / "state", model, [], registered)
    file = folder / "custom_checkpoint_0.pkl"
    with zipfile.ZipFile(file) as archive:
        (largest,) = [one for one in archive.infolist() if one.file_size == 256]
    raw = bytearray(file.read_bytes())
    raw[raw.index(bytes(256), largest.header_offset + 80) + 100] = 1
    file.write_bytes(raw)
    assert zoo.refusal(folder, "new", ema="drop").code == "CKM760"


def test_files_beside_a_distributed_checkpoint_are_left_out(tmp_path: Path) -> None:
    from tests.dcp_folders import save

    zoo = Zoo(tmp_path / "p", "ck.rename('a', 'b')", base={"a": torch.ones(2)})
    folder = save(zoo.folder / "ck", {"model": {"a": torch.ones(2)}})
    (folder / "optimizer.pt").write_text("state")
    opened = open_weights(folder, zoo.project, zoo.request(folder))
    assert [o.path for o in opened.layout.training_state] == [("optimizer.pt",)]
    assert zoo.refusal(folder, "new").code == "CKM560"
    new = zoo.upgrade(folder, "new", optimizer="drop")
    assert "optimizer.pt" not in os.listdir(new)


# --- following the weights --------------------------------------------------------------------

SCRIPT = """
ck.rename("0.{p}", "first.{p}")
ck.split("1.weight", ("q", "k"), dim=0)
ck.init("new", shape=(2, 2), value=init.normal(std=0.5))
"""


def moved(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the script makes of weights, or of their averages, but for what is new."""
    q, k = state["1.weight"].chunk(2)
    kept = {"first.weight": state["0.weight"], "first.bias": state["0.bias"]}
    return {**kept, "1.bias": state["1.bias"], "q": q, "k": k}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("fast", [False, True])
def test_an_average_in_a_file_of_its_own_follows(tmp_path: Path, suffix: str, fast: bool) -> None:
    model = net()
    zoo = Zoo(tmp_path / "p", SCRIPT, base=model.state_dict())
    average = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    registered = {"decay": 0.9, "shadow": {f"module.{k}": v for k, v in average.items()}}
    source = accelerated(zoo.folder / "state", model, [], registered)
    if suffix == ".bin":
        (source / "model.safetensors").unlink()
        torch.save(dict(model.state_dict()), source / "pytorch_model.bin")
    else:
        with_room(source / "model.safetensors")
    before = digest(source)
    if fast:
        assert change(zoo, source).fast
        new = source
    else:
        new = zoo.upgrade(source, "new")
    found = torch.load(new / "custom_checkpoint_0.pkl", weights_only=True)
    assert found["decay"] == 0.9
    weights = load(new / f"{'pytorch_' * (suffix == '.bin')}model{suffix}")
    wanted = moved(average) | {"new": weights["new"]}
    assert same(found["shadow"], {f"module.{name}": tensor for name, tensor in wanted.items()})
    assert same(weights, moved(model.state_dict()) | {"new": weights["new"]})
    names = set(os.listdir(source))
    if fast:
        take_back(source)
        assert digest(source) == before
    assert set(os.listdir(new)) == names


# --- optimizers -------------------------------------------------------------------------------

MODEL = """
class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.k, self.q = nn.Linear(4, 3), nn.Linear(4, 3)
        self.norm = nn.LayerNorm(4)


def build():
    return New()
"""
CHANGE = """
ck.rename("zero.{p}", "norm.{p}")
ck.split("qk.{p}", ("q.{p}", "k.{p}"), dim=0)
ck.init("scale", shape=(3,), value=init.ones())
"""


class Old(nn.Module):
    """Its parameters are not in the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.LayerNorm(4)
        self.qk = nn.Linear(4, 6)


def decaying(model: nn.Module) -> torch.optim.AdamW:
    """Two groups, as the Trainer makes them: matrices decay, vectors do not."""
    matrices = [one for one in model.parameters() if one.ndim > 1]
    vectors = [one for one in model.parameters() if one.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)


def project(folder: Path, *, known: bool = True) -> Zoo:
    zoo = Zoo(folder, CHANGE, model=MODEL)
    state = Old().state_dict()
    order = tuple(state) if known else None
    path = zoo.project.snapshot_path("default")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_snapshot(Snapshot(schema_of(state), (), "default", order)))
    return zoo


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names = {id(one): name for name, one in model.named_parameters()}
    return {names[id(one)]: dict(state) for one, state in optimizer.state.items()}


def new_model(zoo: Zoo) -> nn.Module:
    _, factory = zoo.project.model(None)
    model: nn.Module = importlib.import_module(factory.partition(":")[0]).build()
    return model


def wanted_moments(old: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {name.replace("zero.", "norm."): fields for name, fields in old.items()}
    for name in ("qk.weight", "qk.bias"):
        parts = {k: t.chunk(2) if t.ndim else (t, t) for k, t in found.pop(name).items()}
        for number, letter in enumerate("qk"):
            fields = {field: part[number] for field, part in parts.items()}
            found[name.replace("qk", letter)] = fields
    return found


def assert_resumes(new: Path, zoo: Zoo, file: str, old: dict[str, dict[str, Any]]) -> None:
    """A new optimizer of the new model loads the file, and has the moments that are meant."""
    model = new_model(zoo)
    optimizer = decaying(model)
    optimizer.load_state_dict(torch.load(new / file, weights_only=True))
    found, wanted = by_name(model, optimizer), wanted_moments(old)
    assert found.keys() == wanted.keys()
    for name, fields in wanted.items():
        assert found[name].keys() == fields.keys()
        for field, value in fields.items():
            assert torch.equal(found[name][field], value), (name, field)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_the_optimizer_of_a_trainer_follows(tmp_path: Path) -> None:
    zoo, model = project(tmp_path / "p"), Old()
    optimizer = decaying(model)
    step(model, optimizer)
    source = trainer(zoo.folder / "checkpoint-2", model, optimizer)
    new = zoo.upgrade(source, "new")
    assert_resumes(new, zoo, "optimizer.pt", by_name(model, optimizer))
    same = ("scheduler.pt", "training_args.bin", "rng_state.pth", "trainer_state.json")
    assert all((new / name).read_bytes() == (source / name).read_bytes() for name in same)
    with_room(source / "model.safetensors")
    before = digest(source)
    assert change(zoo, source).fast
    assert_resumes(source, zoo, "optimizer.pt", by_name(model, optimizer))
    take_back(source)
    assert digest(source) == before


def test_without_a_known_order_it_is_refused_unless_it_is_told(tmp_path: Path) -> None:
    zoo, model = project(tmp_path / "p", known=False), Old()
    optimizer = decaying(model)
    step(model, optimizer)
    source = accelerated(zoo.folder / "state", model, [optimizer])
    error = zoo.refusal(source, "new")
    assert error.code == "CKM566"
    assert "--param-order" in (error.fix or "")
    names = {id(one): name for name, one in model.named_parameters()}
    order = tuple(names[id(one)] for g in optimizer.param_groups for one in g["params"])
    new = zoo.upgrade(source, "new", param_order=order, param_order_source="order.txt")
    assert_resumes(new, zoo, "optimizer.bin", by_name(model, optimizer))


def test_shards_of_torch_keep_the_order(tmp_path: Path) -> None:
    zoo, model = project(tmp_path / "p", known=False), Old()
    optimizer = decaying(model)
    step(model, optimizer)
    source = accelerated(zoo.folder / "state", model, [optimizer])
    (source / "model.safetensors").unlink()
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    assert_resumes(zoo.upgrade(source, "new"), zoo, "optimizer.bin", by_name(model, optimizer))


def test_a_renamed_optimizer_changes_in_place(tmp_path: Path) -> None:
    zoo = project(tmp_path / "p")
    (zoo.folder / "migrations" / "0001_step_1.py").unlink()
    zoo.add(1, "ck.rename('zero.{p}', 'one.{p}')")
    source_model = Old()
    optimizer = decaying(source_model)
    step(source_model, optimizer)
    source = trainer(zoo.folder / "checkpoint-2", source_model, optimizer)
    with_room(source / "model.safetensors")
    before = digest(source)
    model = MODEL[: MODEL.index("        self.scale")] + (
        "        self.one = nn.LayerNorm(4)\n        self.qk = nn.Linear(4, 6)\n\n\n"
        "def build():\n    return New()\n"
    )
    _, factory = zoo.project.model(None)
    (zoo.folder / f"{factory.partition(':')[0]}.py").write_text(
        f"import torch\nfrom torch import nn\n{model}"
    )
    assert change(zoo, source).fast
    found = decaying(new_model(zoo))
    found.load_state_dict(torch.load(source / "optimizer.pt", weights_only=True))
    moments = [s["exp_avg"] for s in optimizer.state_dict()["state"].values()]
    again = [s["exp_avg"] for s in found.state_dict()["state"].values()]
    assert all(torch.equal(one, other) for one, other in zip(moments, again, strict=True))
    take_back(source)
    assert digest(source) == before


def test_the_whole_state_of_accelerate_with_fsdp_goes_by_name(tmp_path: Path) -> None:
    zoo, model = project(tmp_path / "p", known=False), Old()
    optimizer = decaying(model)
    step(model, optimizer)
    source = zoo.folder / "state"
    source.mkdir()
    torch.save(model.state_dict(), source / "pytorch_model_fsdp.bin")
    torch.save(get_optimizer_state_dict(model, optimizer), source / "optimizer.bin")
    new = zoo.upgrade(source, "new")
    assert set(os.listdir(new)) == set(os.listdir(source))
    fresh = new_model(zoo)
    again = decaying(fresh)
    again.step()  # so that it is complete, as FSDP makes it
    set_optimizer_state_dict(fresh, again, torch.load(new / "optimizer.bin", weights_only=True))
    found = by_name(fresh, again)
    for name, fields in wanted_moments(by_name(model, optimizer)).items():
        assert all(torch.equal(found[name][field], value) for field, value in fields.items())
    assert not found["scale"]["exp_avg"].any()
