"""What would give a wrong checkpoint, or a wrong word about it, without an error."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import MigrationError
from tests.cli_project import make_toy, slowed
from tests.projects import Zoo, load, same

_MODEL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

def build():
    return Net()
"""
_SIGNAL_AT = """
import os, signal
held = syscalls.{name}
def late({arguments}):
    held({arguments})
    if {when}:
        os.kill(os.getpid(), signal.SIGTERM)
syscalls.{name} = late
"""


def weights() -> dict[str, torch.Tensor]:
    return {"first.weight": torch.randn(4, 4), "old.weight": torch.randn(4, 4)}


@pytest.mark.parametrize("kind", ["shadow", "moments", "flat", "names"])
def test_state_that_repeats_the_weights_in_any_form_is_never_kept_in_silence(
    tmp_path: Path, kind: str
) -> None:
    body = "ck.transpose('first.weight', 0, 1)\nck.rename('old.**', 'second.**')"
    zoo = Zoo(tmp_path, body, model=_MODEL, base=weights())
    state = weights()
    copies = [tensor.clone() for tensor in state.values()]
    beside = {
        "shadow": {"decay": 0.9, "shadow_params": copies + copies, "collected_params": None},
        "moments": {"step": 3, "p": [{"m": tensor} for tensor in copies]},
        "flat": {f"state.{name}.exp_avg": tensor for name, tensor in state.items()} | {"lr": 0.1},
        "names": {f"m_{number}": tensor for number, tensor in enumerate(copies)},
    }[kind]
    old = zoo.save({"state_dict": state, "beside": beside, "rng": torch.get_rng_state()})
    with pytest.raises(MigrationError) as caught:
        zoo.upgrade(old)
    assert caught.value.code == "CKM560"
    assert all(detail.startswith("beside") for detail in caught.value.details)
    left = torch.load(zoo.upgrade(old, ema="drop"), weights_only=True)
    assert not any(isinstance(part, torch.Tensor) for part in _leaves(left.get("beside")))
    assert torch.equal(left["rng"], torch.get_rng_state())


def _leaves(node: object) -> list[object]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        return [leaf for part in node for leaf in _leaves(part)]
    return [node]


def test_a_way_back_that_two_models_have_is_not_chosen_by_their_order(tmp_path: Path) -> None:
    body = "ck.concat('{q,k}.weight', 'qk.weight', dim=0)"
    grouped = {"q.weight": torch.randn(8, 4), "k.weight": torch.randn(4, 4)}
    even = {"q.weight": torch.randn(6, 4), "k.weight": torch.randn(6, 4)}
    zoo = Zoo(tmp_path, body, base={"grouped": grouped, "even": even})
    bare = zoo.save({"qk.weight": torch.cat([*even.values()])}, "bare.safetensors")
    with pytest.raises(MigrationError) as caught:
        zoo.downgrade(bare, "back.safetensors", from_revision="head")
    assert caught.value.code == "CKM551"
    assert "--model" in (caught.value.fix or "")
    back = zoo.downgrade(bare, "back.safetensors", from_revision="head", model="even")
    assert same(load(back), even)


@pytest.mark.parametrize(
    ("name", "arguments", "when"),
    [("unlock", "fd", "True"), ("close", "fd", "os.path.exists('old.safetensors.bak-base')")],
)
def test_a_signal_after_the_commit_is_not_told_as_nothing_written(
    tmp_path: Path, name: str, arguments: str, when: str
) -> None:
    toy = make_toy(tmp_path / "toy")
    old = toy.checkpoint()
    before = hashlib.sha256(old.read_bytes()).hexdigest()
    body = _SIGNAL_AT.format(name=name, arguments=arguments, when=when)
    env = slowed(tmp_path / "site", body)
    done = toy.run("upgrade", old, "--in-place", "--no-model", env=env)
    assert hashlib.sha256(old.read_bytes()).hexdigest() != before
    assert done.code == 130
    assert "the new file stands" in done.err


def test_random_numbers_of_a_function_are_the_same_in_every_run(tmp_path: Path) -> None:
    body = """
    def noisy(t): return t + torch.randn_like(t)
    ck.compute("{part}.weight", "{part}.weight", noisy)
    ck.copy("first.weight", "again.weight")
    ck.merge_equal(["first.weight", "again.weight"], "first.weight")
    """
    zoo = Zoo(tmp_path, body)
    old = zoo.save({name: torch.zeros(4, 4) for name in weights()})
    state = torch.get_rng_state()
    new = zoo.upgrade(old, "new.pt").read_bytes()
    torch.manual_seed(1)
    assert zoo.upgrade(old, "again.pt").read_bytes() == new
    torch.set_rng_state(state)
    found = load(tmp_path / "new.pt")
    assert not torch.equal(found["first.weight"], found["old.weight"])


def test_a_function_does_not_disturb_the_random_state_of_the_caller(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.compute('**', '**', torch.rand_like)")
    old = zoo.save({"a": torch.zeros(3)})
    before = torch.get_rng_state()
    zoo.upgrade(old)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_no_result_will_have_is_told(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('old.**', 'second.**')")
    old = zoo.save(weights())
    with zipfile.ZipFile(old, "a") as archive:
        archive.writestr("old/extra/notes.txt", "important")
        archive.writestr("old/data/77", b"1234")
    notes = "\n".join(zoo.prepare(old).notes)
    assert "extra/notes.txt" in notes
    assert "storages that nothing in the checkpoint uses (1)" in notes


def test_overruling_the_tag_is_told(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.transpose('first.weight', 0, 1)")
    new = zoo.upgrade(zoo.save(weights()))
    told = zoo.prepare(new, zoo.request(new, from_revision="base")).notes
    assert any("the tag of the file says 0000000001" in note for note in told)
    assert not zoo.prepare(new).notes[1:]


def test_a_tensor_that_lies_scattered_counts_as_a_whole_in_memory(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('old.**', 'second.**')")
    state = {"old.weight": torch.zeros(3000, 3000).t()}
    plan = zoo.prepare(zoo.save(state)).plan
    assert plan.peak_memory > 3 * 3000 * 3000 * 4


def test_an_optimizer_beside_a_model_of_another_order_is_numbered_anew(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "pass", model=_MODEL)
    layers = torch.nn.ModuleDict(
        {n: torch.nn.Linear(4, 4, bias=False) for n in ("second", "first")}
    )
    adam = torch.optim.Adam(layers.parameters())
    old = zoo.save({"model": layers.state_dict(), "optimizer": adam.state_dict()})
    (node,) = zoo.prepare(old).plan.carried.nodes
    assert node.path == ("optimizer",)
    ordered = zoo.save(
        {"model": dict(reversed(layers.state_dict().items())), "optimizer": adam.state_dict()}
    )
    assert not zoo.prepare(ordered).plan.carried.nodes
    assert not zoo.prepare(ordered).notes
