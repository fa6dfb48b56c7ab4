"""Copies of weights in real files: EMA, SWA, shadows, the best model so far. What a migration does
to the weights, it does to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ckmigrate.errors import CkmigrateError, MigrationError, VerificationError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor as Node
from ckmigrate.migrate import carry_out
from tests.fast import change, take_back
from tests.projects import Zoo, load, names_in, same

SCRIPT = """
ck.rename("net.0.{p}", "stem.{p}")
ck.split("net.1.qkv", ["net.1.q", "net.1.k", "net.1.v"], dim=0)
ck.transpose("net.1.out", 0, 1)
ck.concat(["a", "b"], "ab", dim=0)
ck.resize("head", (5, 4))
ck.drop("aux", reason="unused")
ck.init("scale", shape=(4,), value=init.normal(std=0.5))
"""


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    shapes = {
        "net.0.weight": (4, 3),
        "net.0.bias": (4,),
        "net.1.qkv": (12, 4),
        "net.1.out": (6, 4),
        "a": (2, 3),
        "b": (1, 3),
        "head": (3, 4),
        "aux": (2,),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def alone(root: Path, script: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the script makes of a file with this state dict and nothing else."""
    zoo = Zoo(root, script)
    return load(zoo.upgrade(zoo.save(state)))


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def reasons(error: CkmigrateError) -> str:
    assert isinstance(error, MigrationError)
    assert error.code == "CKM560"
    assert "--ema drop" in (error.fix or "")
    return "\n".join(error.details)


# --- named copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "ema_model.", "a.b._orig_mod."])
@pytest.mark.parametrize("key", ["ema", "model_ema", "anything"])
def test_a_copy_takes_the_way_of_the_weights(tmp_path: Path, prefix: str, key: str) -> None:
    zoo, average = Zoo(tmp_path, SCRIPT), weights(1)
    copy = {"decay": 0.99, **{prefix + n: t for n, t in average.items()}, "updates": torch.ones(())}
    found = content(zoo.upgrade(zoo.save({"model": weights(), key: copy, "epoch": 3})))
    wanted = alone(tmp_path / "alone", SCRIPT, average)
    assert same(found["model"], alone(tmp_path / "weights", SCRIPT, weights()))
    assert next(iter(found[key])) == "decay"
    assert found[key].pop("decay") == 0.99
    assert found[key].pop("updates").item() == 1
    assert same(found[key], {prefix + name: tensor for name, tensor in wanted.items()})
    assert found["epoch"] == 3


def test_a_downgrade_takes_copies_back(tmp_path: Path) -> None:
    script = "\n".join(SCRIPT.strip().splitlines()[:4])
    zoo = Zoo(tmp_path, script)
    old = {"state_dict": weights(), "ema": weights(1)}
    new = zoo.upgrade(zoo.save(old))
    found = content(zoo.downgrade(new))
    assert same(found["state_dict"], old["state_dict"])
    assert same(found["ema"], old["ema"])


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.qk = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(self.body(x)).chunk(2, -1)
        return torch.as_tensor(q * k)


class New(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.q = nn.Linear(4, 4), nn.Linear(4, 4)
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.as_tensor(self.q(x) * self.k(x))


REFACTOR = """
ck.rename("body.**", "stem.**")
ck.split("qk.{p}", ["q.{p}", "k.{p}"], dim=0)
"""


@pytest.mark.parametrize("buffers", [True, False])
def test_an_averaged_model_is_loaded_strictly_and_means_the_same(
    tmp_path: Path, buffers: bool
) -> None:
    torch.manual_seed(0)
    model = Old()
    function = get_ema_multi_avg_fn(0.5)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=function, use_buffers=buffers)
    optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(8, 3)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    zoo = Zoo(tmp_path, REFACTOR)
    old = zoo.save({"model": model.state_dict(), "swa": average.state_dict()})
    found = content(zoo.upgrade(old))
    new, again = New(), AveragedModel(New())
    new.load_state_dict(found["model"], strict=True)
    again.load_state_dict(found["swa"], strict=True)
    assert int(again.n_averaged) == 4
    for one, other in ((model, new), (average, again)):
        assert torch.equal(one.eval()(x), other.eval()(x))
    assert not torch.equal(new(x), again(x))


def test_module_versions_of_a_copy_move_with_its_modules(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Old()
    zoo = Zoo(tmp_path, REFACTOR)
    copy = AveragedModel(model).state_dict()
    found = content(zoo.upgrade(zoo.save({"model": model.state_dict(), "swa": copy})))
    assert isinstance(found["swa"], OrderedDict)
    versions = found["swa"]._metadata  # type: ignore[attr-defined]
    assert versions["module.stem.1"] == {"version": 2}
    assert "module.body.1" not in versions


def test_several_copies_in_one_mapping_follow_each(tmp_path: Path) -> None:
    zoo, ema, online = Zoo(tmp_path, SCRIPT), weights(1), weights(2)
    both = {f"online_model.{n}": t for n, t in online.items()}
    both |= {"initted": torch.tensor(True), "step": torch.tensor(7)}
    both |= {f"ema_model.{n}": t for n, t in ema.items()}
    found = content(zoo.upgrade(zoo.save({"model": weights(), "ema": both})))["ema"]
    assert found.pop("initted")
    assert found.pop("step") == 7
    wanted = {f"ema_model.{n}": t for n, t in alone(tmp_path / "e", SCRIPT, ema).items()}
    wanted |= {f"online_model.{n}": t for n, t in alone(tmp_path / "o", SCRIPT, online).items()}
    assert same(found, wanted)


def test_copies_of_some_weights_only_follow_where_that_is_certain(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, REFACTOR)
    model = Old()
    shadow = {name: p.detach().clone() + 1 for name, p in model.named_parameters()}
    found = content(zoo.upgrade(zoo.save({"model": model.state_dict(), "shadow": shadow})))
    assert found["shadow"].keys() == dict(New().named_parameters()).keys()
    assert torch.equal(found["shadow"]["q.weight"], shadow["qk.weight"][:4])


def test_a_copy_of_half_of_what_is_joined_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.concat(['a', 'b'], 'ab', dim=0)")
    state = {"a": torch.ones(2, 2), "b": torch.ones(2, 2), "c": torch.ones(3, 3)}
    ema = {"a": torch.ones(2, 2), "c": torch.ones(3, 3)}
    assert "'ab' is made of 'b'" in reasons(zoo.refusal(zoo.save({"model": state, "ema": ema})))


def test_whether_a_partial_copy_gets_what_is_new_is_refused_as_unknown(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.init('n', shape=(2,))")
    state = {"a": torch.ones(2, 2), "c": torch.ones(3, 3)}
    ema = {"a": torch.ones(2, 2)}
    assert "'n' is not certain" in reasons(zoo.refusal(zoo.save({"model": state, "ema": ema})))


def test_a_copy_keeps_its_own_precision_unless_it_had_that_of_the_weights(tmp_path: Path) -> None:
    body = """
    ck.resize("a", (3, 2), fill=0.5)
    ck.cast("b", "float32")
    ck.init("n", shape=(2,), value=init.full(0.1), dtype="bfloat16")
    """
    zoo = Zoo(tmp_path, body)
    state = {"a": torch.randn(2, 2).bfloat16(), "b": torch.randn(3).bfloat16()}
    wide = {name: tensor.float() + 1e-4 for name, tensor in state.items()}
    half = {name: tensor + 1 for name, tensor in state.items()}
    found = content(zoo.upgrade(zoo.save({"model": state, "wide": wide, "half": half})))
    assert {t.dtype for t in found["wide"].values()} == {torch.float32}
    assert torch.equal(found["wide"]["a"][:2], wide["a"])
    assert found["wide"]["n"][0] == torch.tensor(0.1).bfloat16().float()
    assert [found["half"][n].dtype for n in "abn"] == [
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
    ]
    assert torch.equal(found["half"]["b"], half["b"].float())


def test_a_function_of_compute_is_called_on_the_copies(tmp_path: Path) -> None:
    body = "ck.compute(['v', 'g'], ['w', 'n'], lambda v, g: (v * g, g + 1))"
    zoo = Zoo(tmp_path, body)
    state = {"v": torch.randn(3, 2), "g": torch.randn(3, 1)}
    ema = {"v": torch.randn(3, 2).double(), "g": torch.randn(3, 1).double()}
    found = content(zoo.upgrade(zoo.save({"model": state, "ema": ema})))
    assert torch.equal(found["ema"]["w"], ema["v"] * ema["g"])
    assert torch.equal(found["ema"]["n"], ema["g"] + 1)
    assert torch.equal(found["model"]["w"], state["v"] * state["g"])


# --- what cannot follow -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copy", "why"),
    [
        ({"shadow_params": [torch.ones(4, 3), torch.ones(12, 4)]}, "no names"),
        ({f"m_{i}": t for i, t in enumerate(weights(1).values())}, "not those of the weights"),
        ({**weights(1), "head": torch.ones(7, 7)}, "'head' in it is"),
        ({**weights(1), "more": torch.ones(7, 7)}, "'more' in it is no weight"),
        ({**weights(1), "deep": {"x": torch.ones(2)}}, "'deep' in it is"),
    ],
)
def test_copies_that_cannot_follow_with_certainty_are_refused_with_the_reason(
    tmp_path: Path, copy: object, why: str
) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    old = zoo.save({"model": weights(), "ema": copy})
    assert why in reasons(zoo.refusal(old))
    assert "ema" not in content(zoo.upgrade(old, ema="drop")) or "shadow_params" in str(copy)


def test_names_that_fit_several_weights_are_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('w', 'v')")
    state = {name: torch.ones(2, 2) for name in ("w", "x.w", "y.x.w", "u")}
    ema = {"y.x.w": torch.ones(2, 2), "z.y.x.w": torch.ones(2, 2), "u": torch.ones(2, 2)}
    assert "several weights" in reasons(zoo.refusal(zoo.save({"model": state, "ema": ema})))


def test_every_reason_is_told_at_once(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    bad = {"a": [torch.ones(4, 3), torch.ones(12, 4)], "b": {**weights(1), "x": torch.ones(9)}}
    error = zoo.refusal(zoo.save({"model": weights(), "ema": weights(2), **bad}))
    assert [line.partition(":")[0] for line in error.details] == ["a", "b"]


# --- one tensor in several places -------------------------------------------------------------


def storages(path: Path) -> int:
    return len(open_checkpoint(path).records)


def test_what_the_file_shares_is_still_shared(tmp_path: Path) -> None:
    zoo, state, ema = Zoo(tmp_path, SCRIPT), weights(), weights(1)
    old = zoo.save({"model": state, "best": dict(state), "ema": ema, "ema_too": dict(ema)})
    new = zoo.upgrade(old)
    found = content(new)
    fresh = 4  # each has its own of what is new
    assert storages(new) == 2 * (len(found["model"]) - 1) + fresh
    for one, other in (("model", "best"), ("ema", "ema_too")):
        for name in found[one]:
            is_one = found[one][name].data_ptr() == found[other][name].data_ptr()
            assert is_one is (name != "scale"), name
    assert found["ema"]["stem.bias"].data_ptr() != found["model"]["stem.bias"].data_ptr()


def test_a_weight_that_becomes_two_becomes_two_in_its_copies(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.copy('a', 'b')")
    state, ema = {"a": torch.ones(2, 2), "c": torch.ones(3, 3)}, {"a": torch.zeros(2, 2)}
    found = content(zoo.upgrade(zoo.save({"model": state, "best": dict(state), "ema": ema})))
    for part in found["model"], found["best"], found["ema"]:
        assert part["a"].data_ptr() != part["b"].data_ptr()
        assert torch.equal(part["a"], part["b"])


def test_new_values_are_never_shared_with_a_copy(tmp_path: Path) -> None:
    zoo, state = Zoo(tmp_path, "ck.init('n', shape=(3,))"), weights()
    found = content(zoo.upgrade(zoo.save({"model": state, "best": dict(state)})))
    assert found["model"]["n"].data_ptr() != found["best"]["n"].data_ptr()


@pytest.mark.parametrize("script", ["ck.rename('emb', 'tok')", "ck.transpose('{emb,head}', 0, 1)"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_of_tied_weights_is_tied_if_it_was(tmp_path: Path, script: str, tied: bool) -> None:
    zoo, w, e = Zoo(tmp_path, script), torch.randn(3, 2), torch.randn(3, 2)
    ema = {"emb": e, "head": e if tied else e.clone()}
    old = zoo.save({"model": {"emb": w, "head": w}, "ema": ema})
    found = content(zoo.upgrade(old))
    first = next(iter(found["ema"]))
    for part, wanted in ((found["model"], True), (found["ema"], tied)):
        assert (part[first].data_ptr() == part["head"].data_ptr()) is wanted
        assert torch.equal(part[first], part["head"])


def test_tied_weights_whose_copies_differ_are_refused(tmp_path: Path) -> None:
    zoo, w = Zoo(tmp_path, "ck.rename('emb', 'tok')"), torch.randn(3, 2)
    ema = {"emb": torch.ones(3, 2), "head": torch.zeros(3, 2)}
    error = zoo.refusal(zoo.save({"model": {"emb": w, "head": w}, "ema": ema}))
    assert error.code == "CKM530"


def test_a_copy_that_names_tied_weights_once_goes_on_doing_so(tmp_path: Path) -> None:
    w = torch.randn(3, 2)
    for number, script in enumerate(["ck.rename('emb', 'tok')", "ck.untie('head')"]):
        zoo = Zoo(tmp_path / str(number), script)
        old = zoo.save({"model": {"emb": w, "head": w}, "ema": {"emb": w + 1}})
        found = content(zoo.upgrade(old))["ema"]
        assert list(found) == (["emb", "head"] if number else ["tok"])
        assert all(torch.equal(t, w + 1) for t in found.values())


def test_views_of_one_large_storage_get_storages_of_their_own(tmp_path: Path) -> None:
    zoo, flat = Zoo(tmp_path, "ck.rename('a', 'b')"), torch.randn(10)
    ema = {"a": flat[:4].view(2, 2), "c": flat[4:]}
    state = {"a": torch.zeros(2, 2), "c": torch.zeros(6)}
    found = content(zoo.upgrade(zoo.save({"model": state, "ema": ema})))["ema"]
    assert same(found, {"b": ema["a"], "c": ema["c"]})


def test_parameters_in_a_copy_stay_parameters(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, REFACTOR)
    shadow = {name: nn.Parameter(p, requires_grad=False) for name, p in Old().named_parameters()}
    found = content(zoo.upgrade(zoo.save({"model": Old().state_dict(), "ema": shadow})))["ema"]
    assert isinstance(found["stem.0.weight"], nn.Parameter)
    assert not found["stem.0.weight"].requires_grad


# --- where it stands --------------------------------------------------------------------------


def test_copies_in_lists_and_below_other_keys_are_found_and_put_back(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'z')")
    state, adam = weights(), {"state": {0: {"m": torch.ones(2)}}, "param_groups": []}
    runs = [adam, {"avg": weights(1), "n": 3}, 5, weights(2)]
    old = zoo.save({"model": state, "runs": runs})
    found = content(zoo.upgrade(old, optimizer="drop"))["runs"]
    assert len(found) == 3
    assert torch.equal(found[0]["avg"]["z"], runs[1]["avg"]["a"])  # type: ignore[index]
    assert (found[0]["n"], found[1]) == (3, 5)
    assert [name for name in found[2] if name in "az"] == ["z"]


def test_labels_cannot_be_taken_by_names_of_weights(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'b')")
    names = ["training state: ema.a", "new training state: ema.a", "training state: ema.b"]
    state = {"a": torch.zeros(2, 2), **{n: torch.zeros(2, 2) + i for i, n in enumerate(names)}}
    ema = {name: tensor + 10 for name, tensor in state.items()}
    found = content(zoo.upgrade(zoo.save({"model": state, "ema": ema})))
    for name in names:
        assert found["ema"][name][0, 0] == state[name][0, 0] + 10
    assert found["ema"]["b"][0, 0] == 10


def test_keys_with_dots_and_keys_that_are_numbers_stay_apart(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'z')")
    copies = {"x": {"y": weights(1)}, "x.y": weights(2), 1: weights(3), "1": weights(4)}
    found = content(zoo.upgrade(zoo.save({"model": weights(), **copies})))
    for key in ("x.y", 1, "1"):
        assert torch.equal(found[key]["z"], copies[key]["a"])  # type: ignore[index]
    assert torch.equal(found["x"]["y"]["z"], copies["x"]["y"]["a"])  # type: ignore[index]


def test_a_format_without_a_place_for_copies_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.rename('a', 'z')")
    old = zoo.save({"model": weights(), "ema": weights(1)})
    error = zoo.refusal(old, "new.safetensors")
    assert error.code == "CKM740"
    assert "'ema'" in error.details
    assert "z" in load(zoo.upgrade(old, "new.safetensors", ema="drop"))
    assert "z" in load(zoo.upgrade(old, "bare.pt", weights_only=True))


def test_a_change_in_place_moves_no_copy(tmp_path: Path) -> None:
    script = "ck.rename('a', 'z')\nck.split('net.1.qkv', ['q', 'k', 'v'])\nck.init('n', shape=(3,))"
    zoo = Zoo(tmp_path, script)
    state = weights()
    old = {"model": state, "ema": weights(1), "best": dict(state)}
    path = zoo.save(old)
    before = path.read_bytes()
    copied = content(zoo.upgrade(path))
    outcome = change(zoo, path)
    assert outcome.written < 8_000
    found = content(path)
    for key in ("model", "ema", "best"):
        assert same(found[key], copied[key])
    assert found["best"]["z"].data_ptr() == found["model"]["z"].data_ptr()
    assert found["best"]["n"].data_ptr() != found["model"]["n"].data_ptr()
    take_back(path)
    assert path.read_bytes() == before


def test_planning_reads_no_tensor_and_counts_the_copies(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    plan = zoo.prepare(zoo.save({"model": weights(), "ema": weights(1)})).plan
    (node,) = plan.carried.nodes
    assert node.path == ("ema",)
    assert node.summary.counts == {"follow": 8, "fresh": 1, "dropped": 1}
    assert plan.totals.written == 2 * plan.schema.nbytes
    assert len(plan.state) == len(plan.entries)
    assert all(isinstance(tensor, Node) for tensor in plan.carried.sources.values())


MODEL = """
class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)

def build():
    return New()
"""


RESUMED = """
class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.k, self.q = nn.Linear(4, 4), nn.Linear(4, 4)
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

def build():
    return New()
"""
NEW_NORM = """
ck.rename("net.{p}", "body.{p}")
for name in ("weight", "bias", "running_mean", "running_var"):
    ck.init(f"norm.{name}", shape=(2,))
ck.init("norm.num_batches_tracked", shape=(), dtype="int64")
"""


def test_a_copy_of_the_parameters_gets_new_parameters_and_no_buffers(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "ck.drop('net.mask', reason='unused')" + NEW_NORM, model=MODEL)
    parameters = {"net.weight": torch.randn(2, 2), "net.bias": torch.randn(2)}
    state = {**parameters, "net.mask": torch.ones(3)}
    found = content(zoo.upgrade(zoo.save({"model": state, "ema": parameters})))
    assert set(found["ema"]) == {"body.weight", "body.bias", "norm.weight", "norm.bias"}
    assert "norm.running_mean" in found["model"]


def test_a_copy_of_some_parameters_is_refused_where_there_are_new_ones(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, NEW_NORM, model=MODEL)
    state = {"net.weight": torch.randn(2, 2), "net.bias": torch.randn(2)}
    old = zoo.save({"model": state, "ema": {"net.weight": torch.ones(2, 2)}})
    assert "is not certain" in reasons(zoo.refusal(old))


def test_state_that_reads_back_differently_is_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    prepared = zoo.prepare(zoo.save({"model": weights(), "ema": weights(1)}))
    carried = prepared.plan.carried
    (node,) = carried.nodes

    def build(made: Mapping[str, Node]) -> object:
        built = node.build(made)
        assert isinstance(built, dict)
        return {name: tensor for name, tensor in built.items() if name != "net.1.q"}

    broken = replace(carried, nodes=(replace(node, build=build),))
    prepared = replace(prepared, plan=replace(prepared.plan, carried=broken))
    before = names_in(tmp_path)
    with pytest.raises(VerificationError) as caught:
        carry_out(prepared, Destination(tmp_path / "new.pt"))
    assert caught.value.code == "CKM606"
    assert caught.value.details == ("ema: 'net.1.q' is None, not float32 [4,4]",)
    assert names_in(tmp_path) == before


def test_a_counter_that_becomes_several_is_no_obstacle_to_a_change_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Old()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    zoo = Zoo(tmp_path, REFACTOR, model=RESUMED)
    old = zoo.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    copied, before = content(zoo.upgrade(old)), old.read_bytes()
    assert change(zoo, old).written < 8_000
    found = content(old)
    new = torch.optim.Adam(New().parameters())
    new.load_state_dict(found["optimizer"])
    for index, state in copied["optimizer"]["state"].items():
        assert same(found["optimizer"]["state"][index], state)
    steps = [state["step"].data_ptr() for state in found["optimizer"]["state"].values()]
    assert len(set(steps)) == len(steps)
    take_back(old)
    assert old.read_bytes() == before


# --- lists without names ----------------------------------------------------------------------


def shadow(model: nn.Module, add: float) -> dict[str, Any]:
    """As torch_ema saves it."""
    params = [p.detach().clone() + add for p in model.parameters()]
    return {"decay": 0.9, "num_updates": 3, "shadow_params": params, "collected_params": None}


def test_a_list_of_shadows_follows_the_parameters_in_the_order_of_the_new_model(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model, new = Old(), New()
    zoo = Zoo(tmp_path, REFACTOR, model=RESUMED)
    ema = shadow(model, 1)
    old = zoo.save({"model": model.state_dict(), "ema": ema})
    found = content(zoo.upgrade(old))["ema"]
    assert (found["decay"], found["num_updates"], found["collected_params"]) == (0.9, 3, None)
    averages = dict(zip(dict(new.named_parameters()), found["shadow_params"], strict=True))
    before = dict(zip(dict(model.named_parameters()), ema["shadow_params"], strict=True))
    assert torch.equal(averages["stem.0.weight"], before["body.0.weight"])
    assert torch.equal(averages["q.weight"], before["qk.weight"][:4])
    assert torch.equal(averages["k.bias"], before["qk.bias"][4:])
    assert list(averages)[:2] == ["k.weight", "k.bias"]


def test_a_list_gets_what_is_new_among_the_parameters(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, NEW_NORM, model=MODEL)
    state = {"net.weight": torch.randn(2, 2), "net.bias": torch.randn(2)}
    old = zoo.save({"model": state, "shadow_params": [t + 1 for t in state.values()]})
    found = content(zoo.upgrade(old))
    shapes = [tuple(tensor.shape) for tensor in found["shadow_params"]]
    assert shapes == [(2, 2), (2,), (2,), (2,)]
    assert torch.equal(found["shadow_params"][1], state["net.bias"] + 1)


def test_a_list_whose_order_is_not_certain_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, REFACTOR, model=RESUMED)
    model = Old()
    ema = [p.detach() + 1 for name, p in model.named_parameters() if name != "body.1.weight"]
    text = reasons(zoo.refusal(zoo.save({"model": model.state_dict(), "ema": ema})))
    assert "not certain which parameter" in text
    whole = zoo.save({"model": model.state_dict(), "ema": shadow(model, 1)})
    assert "no model tells" in reasons(zoo.refusal(whole, use_model=False))


SWAPPED = """
class New(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.a = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

def build():
    return New()
"""


def test_a_list_follows_a_new_order_of_the_model_though_no_weight_changes(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, "pass", model=SWAPPED)
    state = {"a.weight": torch.randn(2, 2), "b.weight": torch.randn(2, 2)}
    ema = [tensor + 1 for tensor in state.values()]
    found = content(zoo.upgrade(zoo.save({"model": state, "ema": ema, "best": dict(state)})))
    assert torch.equal(found["ema"][0], ema[1])
    assert torch.equal(found["ema"][1], ema[0])
    assert same(found["best"], state)


# --- edits of metadata beside them ------------------------------------------------------------


def test_metadata_inside_a_copy_can_be_edited_in_the_same_revision(tmp_path: Path) -> None:
    script = """
    ck.rename("a", "z")
    ck.meta.set("ema.decay", 0.5)
    ck.meta.rename("runs.0.avg.n", "runs.0.avg.updates")
    """
    zoo = Zoo(tmp_path, script)
    runs = [{"avg": {"n": 3, **weights(2)}}]
    old = zoo.save({"model": weights(), "ema": {"decay": 0.9, **weights(1)}, "runs": runs})
    found = content(zoo.upgrade(old))
    assert found["ema"]["decay"] == 0.5
    assert torch.equal(found["ema"]["z"], weights(1)["a"])
    assert found["runs"][0]["avg"]["updates"] == 3
    assert torch.equal(found["runs"][0]["avg"]["z"], weights(2)["a"])


class Shadow:
    """An average as people write it: an object with a dict of tensors in it."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.shadow = values


def test_a_copy_inside_an_object_is_refused(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT, config=f'carry = ["{__name__}.*"]')
    old = zoo.save({"model": weights(), "ema": Shadow(weights(1))})
    assert f"it is a {__name__}.Shadow" in reasons(zoo.refusal(old))
