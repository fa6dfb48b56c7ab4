"""Optimizer state in all its forms: torch's own, by name, flattened; and what has to be refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.param_groups import NewModel
from ckmigrate.training.param_names import Given
from tests.training.states import carried, new_model, old_model, unchanged

Make = Callable[..., torch.optim.Optimizer]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> Any:
    for seed in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))

        def loss(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            found: torch.Tensor = model(x).square().mean()
            found.backward()  # type: ignore[no-untyped-call]
            return found

        optimizer.step(loss)  # type: ignore[arg-type]
    return copy.deepcopy(optimizer.state_dict())


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def adam(model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, **more)


def refusal(code: str, *args: Any, **more: Any) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        carried(*args, **more)
    assert caught.value.code == code
    return caught.value


def fresh(*shape: int) -> Expr:
    return ex.fill(bytes(4), TensorSpec(DType.F32, shape))


# --- forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_by_name_goes_by_the_new_names(flat: bool, prefix: str) -> None:
    model = network()
    optimizer = adam(model)
    stepped(model, optimizer)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    state: Any = get_optimizer_state_dict(model, optimizer, options=options)
    if prefix:
        state = _prefixed(state, prefix, flat)
    entries = {n.replace("2.", "head."): e for n, e in unchanged(weights_of(model)).items()}
    entries["extra.weight"] = fresh(3, 3)
    old = old_model(weights_of(model), wrappers=("module",))
    (found,), _ = carried([state], old, new_model(entries))
    keys = found if flat else found["state"]
    names = {k.split(".exp_avg")[0].removeprefix("state.") for k in keys if "lr" not in k}
    if not flat:
        assert names == {prefix + name for name in entries}
        assert torch.equal(
            found["state"][f"{prefix}head.bias"]["exp_avg"],
            state["state"][f"{prefix}2.bias"]["exp_avg"],
        )
        assert found["state"][f"{prefix}extra.weight"]["step"] == 0
        assert found["param_groups"][0]["params"] == [prefix + name for name in entries]
    else:
        head = f"state.{prefix}head.bias.exp_avg"
        assert torch.equal(found[head], state[f"state.{prefix}2.bias.exp_avg"])
        assert found[f"state.{prefix}extra.weight.exp_avg"].shape == (3, 3)
        assert found[f"param_groups.{prefix}extra.weight.lr"] == 0.01


def _prefixed(state: dict[str, Any], prefix: str, flat: bool) -> dict[str, Any]:
    if flat:
        heads = ("state.", "param_groups.")
        return {
            k.replace(h, h + prefix, 1): v
            for k, v in state.items()
            for h in heads
            if k.startswith(h)
        }
    groups = [{**g, "params": [prefix + n for n in g["params"]]} for g in state["param_groups"]]
    return {"state": {prefix + n: v for n, v in state["state"].items()}, "param_groups": groups}


@pytest.mark.parametrize("flat", [False, True])
def test_torch_takes_state_by_name_back(flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    old, new = network(), nn.Sequential(network(), nn.Linear(2, 2))
    optimizer = adam(old)
    stepped(old, optimizer)
    state = get_optimizer_state_dict(old, optimizer, options=options)
    entries = {f"0.{name}": expr for name, expr in unchanged(weights_of(old)).items()}
    entries |= {"1.weight": fresh(2, 2), "1.bias": fresh(2)}
    (found,), _ = carried([state], old_model(weights_of(old)), new_model(entries))
    target = adam(new)
    set_optimizer_state_dict(new, target, found, options=options)
    moments = [optimizer.state[p]["exp_avg"] for p in old.parameters()]
    got = [target.state[p]["exp_avg"] for p in new.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(moments, got, strict=False))
    assert not got[-1].any()


def test_names_beside_numbers_are_rewritten_and_believed() -> None:
    model = network()
    optimizer = torch.optim.AdamW(list(model.named_parameters())[::-1])
    state = stepped(model, optimizer)
    entries = {name.replace("0.", "in."): e for name, e in unchanged(weights_of(model)).items()}
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(entries))
    assert found["param_groups"][0]["param_names"] == [*entries][::-1]
    assert torch.equal(found["state"][5]["exp_avg"], state["state"][5]["exp_avg"])
    first = entries.pop("in.weight")
    turned = {**entries, "in.weight": first}
    refusal("CKM577", [state], old_model(weights_of(model)), new_model(turned))


def test_unknown_forms_are_refused() -> None:
    weights = weights_of(network())
    shared = {"state": {"global": {"m": torch.ones(4)}}, "param_groups": [{"params": [0]}]}
    for odd in (shared, {"state": {}, "param_groups": [{"params": "abc"}]}):
        refusal("CKM569", [odd], old_model(weights), new_model(unchanged(weights)))


# --- what new, frozen, tied and dropped parameters become ---------------------------------------


def test_new_parameters_have_no_state_and_dropped_ones_lose_theirs() -> None:
    model = network()
    state = stepped(model, adam(model))
    kept = {n: e for n, e in unchanged(weights_of(model)).items() if not n.startswith("1.")}
    entries = {"front.weight": fresh(4, 4), **kept}
    (found,), done = carried([state], old_model(weights_of(model)), new_model(entries))
    assert list(found["state"]) == [1, 2, 3, 4]
    assert torch.equal(found["state"][3]["exp_avg"], state["state"][4]["exp_avg"])
    counts = done.nodes[0].summary.counts
    assert (counts["follow"], counts["fresh"], counts["dropped"]) == (4, 1, 2)


def test_a_grown_layer_keeps_its_moments_and_gets_zeros() -> None:
    model = network()
    state = stepped(model, adam(model))
    entries = unchanged(weights_of(model))
    entries["2.weight"] = ex.concat([entries["2.weight"], fresh(3, 4)], 0)
    entries["0.weight"] = ex.slice_(entries["0.weight"], 1, 0, 2)
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(entries))
    moments = found["state"][4]["exp_avg_sq"]
    assert torch.equal(moments[:2], state["state"][4]["exp_avg_sq"])
    assert not moments[2:].any()
    assert torch.equal(found["state"][0]["exp_avg"], state["state"][0]["exp_avg"][:, :2])


def test_pieces_count_their_steps_apart() -> None:
    """torch counts in the tensor that it is given: one for two would count twice."""
    model = network()
    state = stepped(model, adam(model))
    entries = unchanged(weights_of(model))
    whole = entries.pop("0.weight")
    halves = {n: ex.slice_(whole, 0, 2 * i, 2 * i + 2) for i, n in enumerate(("top", "low"))}
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(halves | entries))
    one, other = (found["state"][number]["step"] for number in (0, 1))
    assert one == other == 3
    assert one.data_ptr() != other.data_ptr()


def test_adagrad_makes_state_at_once() -> None:
    model = network()
    state = stepped(model, torch.optim.Adagrad(model.parameters(), initial_accumulator_value=0.5))
    entries = {**unchanged(weights_of(model)), "new": fresh(2, 2)}
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(entries))
    assert found["state"][6]["step"] == 0
    assert found["state"][6]["sum"].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_frozen_layers_stay_out() -> None:
    model = network()
    trained = [p for n, p in model.named_parameters() if n.startswith("2.")]
    state = stepped(model, torch.optim.Adam(trained))
    entries = {n.replace("2.", "head."): e for n, e in unchanged(weights_of(model)).items()}
    turned = dict(reversed(entries.items()))
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(turned))
    assert found["param_groups"][0]["params"] == [0, 1]
    assert torch.equal(found["state"][0]["exp_avg"], state["state"][1]["exp_avg"])


def test_a_frozen_layer_of_the_shape_of_another_must_be_named() -> None:
    model = network()
    state = stepped(model, torch.optim.Adam(list(model[1].parameters())))
    old, new = old_model(weights_of(model)), new_model(unchanged(weights_of(model)))
    refusal("CKM566", [state], old, new)
    (found,), _ = carried([state], old, new, given=Given(("1.weight", "1.bias"), "order.txt"))
    assert torch.equal(found["state"][0]["exp_avg"], state["state"][0]["exp_avg"])


def test_tied_parameters_count_once() -> None:
    weights = {"embed": torch.ones(3, 2), "body": torch.ones(3, 2), "head": torch.ones(3, 2)}
    state = {
        "state": {n: {"step": 1, "exp_avg": torch.full((3, 2), float(n))} for n in range(2)},
        "param_groups": [{"lr": 1, "params": [0, 1]}],
    }
    entries = unchanged(weights)
    entries["head"] = entries["embed"]
    old = old_model(weights, ties=(("embed", "head"),))
    new = NewModel(entries, ("body", "embed"), frozenset(entries))
    (found,), _ = carried([state], old, new)
    assert found["state"][0]["exp_avg"].eq(1).all()
    assert found["state"][1]["exp_avg"].eq(0).all()


def test_master_weights_are_copies_and_keep_their_dtype() -> None:
    weights = {"w": torch.ones(2, 2).bfloat16()}
    fields = {"step": 2, "exp_avg": torch.ones(2, 2), "master_param": torch.full((2, 2), 0.3)}
    state = {"state": {0: fields}, "param_groups": [{"params": [0]}]}
    ones = ex.fill(b"\x80?", TensorSpec(DType.BF16, (1, 2)))
    grown = {"w": ex.concat([unchanged(weights)["w"], ones], 0)}
    (found,), _ = carried([state], old_model(weights), new_model(grown))
    assert found["state"][0]["master_param"].tolist()[2] == [1, 1]
    assert found["state"][0]["master_param"].dtype is torch.float32
    assert found["state"][0]["exp_avg"].tolist()[2] == [0, 0]


def test_moments_that_were_not_made_yet_count_as_new() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    kept = {0: {"momentum_buffer": torch.ones(2)}, 1: {"momentum_buffer": None}}
    state = {"state": kept, "param_groups": [{"params": [0, 1]}]}
    entries = unchanged(weights)
    joined = {"ab": ex.concat([entries["a"], entries["b"]], 0)}
    (found,), _ = carried([state], old_model(weights), new_model(joined))
    assert found["state"][0]["momentum_buffer"].tolist() == [1, 1, 0, 0]
    (found,), _ = carried([state], old_model(weights), new_model(entries))
    assert found["state"][1]["momentum_buffer"] is None


@pytest.mark.parametrize("steps", [(1, 2), (torch.tensor(1.0), 1)])
def test_parameters_of_different_age_do_not_become_one(steps: tuple[Any, Any]) -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    kept = {n: {"step": steps[n], "exp_avg": torch.ones(2)} for n in range(2)}
    state = {"state": kept, "param_groups": [{"params": [0, 1]}]}
    joined = new_model({"ab": ex.concat([*unchanged(weights).values()], 0)})
    assert "'step'" in refusal("CKM578", [state], old_model(weights), joined).what


def test_counters_that_are_tensors_are_compared_when_it_is_done() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    kept = {n: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)} for n in range(2)}
    state = {"state": kept, "param_groups": [{"params": [0, 1]}]}
    joined = new_model({"ab": ex.concat([*unchanged(weights).values()], 0)})
    _, done = carried([state], old_model(weights), joined)
    assert [check.claim for check in done.checks] == [
        "'a' and 'b' become one parameter and have one step"
    ]


# --- state of whole tensors ---------------------------------------------------------------------


def test_sums_over_rows_follow_a_rename_and_nothing_else() -> None:
    model = network()
    state = stepped(model, torch.optim.Adafactor(model.parameters()))
    assert "row_var" in state["state"][0]
    entries = {f"in.{name}": e for name, e in unchanged(weights_of(model)).items()}
    turned = dict(reversed(entries.items()))
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(turned))
    assert torch.equal(found["state"][5]["row_var"], state["state"][0]["row_var"])
    entries["in.0.weight"] = ex.permute(entries["in.0.weight"], (1, 0))
    error = refusal("CKM570", [state], old_model(weights_of(model)), new_model(entries))
    assert "0.weight" in error.what
    assert "--optimizer drop" in (error.fix or "")


def test_blocks_of_eight_bits_are_not_cut() -> None:
    weights = {"w": torch.ones(4, 4)}
    fields = {"step": 1, "state1": torch.ones(4, 4).byte(), "absmax1": torch.ones(1)}
    state = {"state": {0: fields}, "param_groups": [{"params": [0]}]}
    whole = new_model({"renamed": unchanged(weights)["w"]})
    (found,), _ = carried([state], old_model(weights), whole)
    assert found["state"][0]["state1"].dtype is torch.uint8
    half = new_model({"w": ex.slice_(unchanged(weights)["w"], 0, 0, 2)})
    refusal("CKM570", [state], old_model(weights), half)


def test_one_history_of_all_parameters_follows_where_nothing_changes() -> None:
    model = network()
    state = stepped(model, torch.optim.LBFGS(model.parameters(), max_iter=3))
    entries = {f"in.{name}": e for name, e in unchanged(weights_of(model)).items()}
    (found,), _ = carried([state], old_model(weights_of(model)), new_model(entries))
    dirs = zip(found["state"][0]["old_dirs"], state["state"][0]["old_dirs"], strict=True)
    assert all(torch.equal(a, b) for a, b in dirs)
    turned = new_model(dict(reversed(entries.items())))
    refusal("CKM570", [state], old_model(weights_of(model)), turned)


# --- several optimizers ---------------------------------------------------------------------------


def pair() -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Of a generator and a discriminator."""
    parts = {"g": nn.Linear(4, 3), "d": nn.Linear(3, 1)}
    model = nn.ModuleDict(parts)
    states = []
    for part in (parts["d"], parts["g"]):
        optimizer = torch.optim.Adam(part.parameters())
        part(torch.randn(2, part.in_features)).sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
    return states, weights_of(model)


def test_each_optimizer_keeps_its_parameters() -> None:
    states, weights = pair()
    entries = {f"nets.{name}": expr for name, expr in unchanged(weights).items()}
    found, _ = carried(states, old_model(weights), new_model(dict(reversed(entries.items()))))
    assert [len(one["state"]) for one in found] == [2, 2]
    assert torch.equal(found[0]["state"][1]["exp_avg"], states[0]["state"][0]["exp_avg"])
    assert torch.equal(found[1]["state"][0]["exp_avg"], states[1]["state"][1]["exp_avg"])


def test_two_optimizers_of_one_parameter_are_refused() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(model.named_parameters())
    state = stepped(model, optimizer)
    weights = weights_of(model)
    refusal("CKM565", [state, state], old_model(weights), new_model(unchanged(weights)))


def test_parts_of_two_optimizers_do_not_become_one() -> None:
    states, weights = pair()
    known = unchanged(weights)
    joined = ex.concat([known["g.bias"], known["d.bias"]], 0)
    entries = {"g.weight": known["g.weight"], "d.weight": known["d.weight"], "bias": joined}
    refusal("CKM577", states, old_model(weights), new_model(entries))


# --- what only the code knows -------------------------------------------------------------------


def test_the_groups_of_the_code_decide() -> None:
    model = network()
    halves = [list(model[0].parameters()), [*model[1].parameters(), *model[2].parameters()]]
    state = stepped(model, torch.optim.Adam([{"params": p, "lr": 0.1} for p in halves]))
    entries = unchanged(weights_of(model))
    entries["new"] = fresh(4, 4)
    old = old_model(weights_of(model))
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    order = Given(tuple(names), "order.txt")
    refusal("CKM577", [state], old, new_model(entries), given=order)
    groups = ((("new", "1.bias", "0.bias"), ("0.weight", "1.weight", "2.weight", "2.bias")),)
    told = Given(tuple(names), "order.txt", groups)
    (found,), _ = carried([state], old, new_model(entries), given=told)
    assert [group["params"] for group in found["param_groups"]] == [[0, 1, 2], [3, 4, 5, 6]]
    assert 0 not in found["state"]
    assert torch.equal(found["state"][1]["exp_avg"], state["state"][3]["exp_avg"])
    assert torch.equal(found["state"][3]["exp_avg"], state["state"][0]["exp_avg"])
    one = Given(tuple(names), "order.txt", ((groups[0][0] + groups[0][1],),))
    assert "2" in (refusal("CKM577", [state], old, new_model(entries), given=one).why or "")


def test_without_a_model_numbers_are_refused_and_names_follow() -> None:
    model = network()
    optimizer = adam(model)
    stepped(model, optimizer)
    entries = {f"in.{name}": e for name, e in unchanged(weights_of(model)).items()}
    blind = NewModel(entries, None)
    old = old_model(weights_of(model))
    refusal("CKM566", [optimizer.state_dict()], old, blind)
    (found,), _ = carried([get_optimizer_state_dict(model, optimizer)], old, blind)
    assert set(found["state"]) == set(entries)


def test_factors_of_one_element_are_no_moments() -> None:
    """Adafactor's rows and columns have the shape of such a parameter."""
    model = nn.ParameterDict({name: torch.ones(1, 1) for name in "ab"})
    for parameter in model.values():
        parameter.grad = torch.ones(1, 1)
    optimizer = torch.optim.Adafactor(model.values())
    optimizer.step()  # type: ignore[no-untyped-call]
    weights = weights_of(model)
    both = ex.concat(list(unchanged(weights).values()), 0)
    refusal("CKM570", [optimizer.state_dict()], old_model(weights), new_model({"c": both}))


def test_preconditioners_of_square_parameters_are_no_moments() -> None:
    """What is a matrix beside a bias is one beside a square weight too."""
    weights = weights_of(nn.Linear(4, 4))
    fields = {0: (4, 4), 1: (4,)}
    state = {
        key: {"momentum": torch.ones(shape), "precond_0": torch.eye(4)}
        for key, shape in fields.items()
    }
    node = {"state": state, "param_groups": [{"params": [0, 1]}]}
    same = unchanged(weights)
    (found,), _ = carried([node], old_model(weights), new_model(same))
    assert torch.equal(found["state"][0]["precond_0"], torch.eye(4))
    turned = {**same, "weight": ex.permute(same["weight"], (1, 0))}
    refusal("CKM570", [node], old_model(weights), new_model(turned))
