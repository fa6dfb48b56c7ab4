"""Paths into what a checkpoint holds beside tensors."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError
from ckmigrate.formats.meta_tree import drop, get, has, plain, rename, set_value
from ckmigrate.formats.pickle_tree import dumps, loads
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType, TensorSpec

NAMESPACE = Global("argparse", "Namespace")
TENSOR = Tensor(Storage("w", DType.F32, 4), TensorSpec(DType.F32, (1,)), 0, (1,))


def namespace(**state: object) -> Object:
    return Object(NAMESPACE, new=True, has_state=True, state=dict(state))


def ordered(**entries: object) -> Object:
    return Object(Global("collections", "OrderedDict"), entries=dict(entries.items()))


def checkpoint() -> dict[object, object]:
    return {
        "state_dict": {"fc.weight": TENSOR},
        "hyper_parameters": ordered(n_head=4, args=namespace(lr=0.1, model=namespace(width=8))),
        "steps": [{"at": 1}, {"at": 2}],
        "flat": {"optim.lr": 1, "optim.beta": 2, "optim": {"lr": 3}},
        "numbers": {0: "zero", "1": "one"},
        "pair": (1, {"x": 2}),
    }


def error(change: Callable[..., object], *args: object) -> MigrationError:
    tree = checkpoint()
    before = repr(tree)
    with pytest.raises(MigrationError) as caught:
        change(tree, *args)
    assert repr(tree) == before
    return caught.value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hyper_parameters.n_head", 4),
        ("hyper_parameters.args.lr", 0.1),
        ("hyper_parameters.args.model.width", 8),
        ("steps.1.at", 2),
        ("flat.optim.lr", 1),
        ("flat.optim.beta", 2),
        ("numbers.0", "zero"),
        ("numbers.1", "one"),
        ("pair.1.x", 2),
    ],
)
def test_paths_walk_dicts_objects_attributes_and_lists(path: str, value: object) -> None:
    tree = checkpoint()
    assert has(tree, path)
    assert get(tree, path) == value
    changed = set_value(tree, path, "new")
    assert get(changed, path) == "new"
    assert get(tree, path) == value
    assert not has(drop(tree, path), path) or path == "flat.optim.lr"


def test_a_shorter_key_is_tried_when_the_longer_leads_nowhere() -> None:
    tree = {"a.b": 1, "a": {"b": {"c": 2}}}
    assert get(tree, "a.b") == 1
    assert get(tree, "a.b.c") == 2
    assert get(drop(tree, "a.b"), "a.b") == {"c": 2}


def test_what_is_not_on_the_path_is_shared() -> None:
    tree = checkpoint()
    changed = set_value(tree, "hyper_parameters.args.lr", 1)
    assert isinstance(changed, dict)
    assert changed["steps"] is tree["steps"]
    assert changed["state_dict"] is tree["state_dict"]
    assert get(changed, "hyper_parameters.args.model") is get(tree, "hyper_parameters.args.model")


@pytest.mark.parametrize("path", ["epoch", "hyper_parameters.depth", "hyper_parameters.args.new"])
def test_a_new_entry_goes_into_what_exists(path: str) -> None:
    changed = set_value(checkpoint(), path, [1, {"a": None}])
    assert get(changed, path) == [1, {"a": None}]


def test_a_new_key_with_dots_goes_among_others_like_it() -> None:
    tree: dict[object, object] = {"optim.lr": 1}
    assert set_value(tree, "optim.beta", 2) == {"optim.lr": 1, "optim.beta": 2}
    assert rename(tree, "optim.lr", "sgd.rate") == {"sgd.rate": 1}


@pytest.mark.parametrize("path", ["hyper_paramters.n_head", "epoch.x", "steps.5", "a.b.c", ""])
def test_a_wrong_path_is_told_with_what_is_near(path: str) -> None:
    for change in (get, drop):
        failure = error(change, path)
        assert failure.code == "CKM571"
        assert failure.why
    assert "hyper_parameters" in str(error(get, "hyper_paramters.n_head").why)
    assert "'hyper_parameters.n_head'" in str(error(get, "hyper_parameters.n_heads").why)


@pytest.mark.parametrize("path", ["hyper_paramters.n_head", "steps.5", "a.b.c", "steps.0.at.x"])
def test_setting_never_makes_containers(path: str) -> None:
    assert error(set_value, path, 1).code == "CKM571"


def test_renaming_keeps_the_place_in_its_container() -> None:
    tree = checkpoint()
    changed = rename(tree, "hyper_parameters", "hparams")
    assert isinstance(changed, dict)
    assert list(changed) == ["state_dict", "hparams", "steps", "flat", "numbers", "pair"]
    assert changed["hparams"] is tree["hyper_parameters"]
    inner = rename(tree, "hyper_parameters.args.lr", "hyper_parameters.args.rate")
    assert get(inner, "hyper_parameters.args.rate") == 0.1
    assert plain(get(inner, "hyper_parameters.args")) == {
        "__class__": "argparse.Namespace",
        "rate": 0.1,
        "model": {"__class__": "argparse.Namespace", "width": 8},
    }


def test_renaming_moves_between_containers() -> None:
    moved = rename(checkpoint(), "hyper_parameters.n_head", "hyper_parameters.args.model.heads")
    assert not has(moved, "hyper_parameters.n_head")
    assert get(moved, "hyper_parameters.args.model.heads") == 4


def test_renaming_refuses_collisions_and_itself() -> None:
    assert error(rename, "steps", "pair").code == "CKM575"
    assert error(rename, "hyper_parameters", "hyper_parameters.old").code == "CKM575"
    assert error(rename, "step", "x").code == "CKM571"
    assert error(rename, "steps", "nowhere.x").code == "CKM571"


@pytest.mark.parametrize("path", ["state_dict", "state_dict.fc.weight"])
def test_tensors_are_not_touched(path: str) -> None:
    assert error(set_value, path, 1).code == "CKM572"
    assert error(drop, path).code == "CKM572"
    assert error(rename, path, "x").code == "CKM572"
    assert error(set_value, "epoch", Object(NAMESPACE, (TENSOR,))).code == "CKM572"


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, {"a": [1j]}, {(1,): 2}])
def test_only_plain_values_are_stored(value: object) -> None:
    assert error(set_value, "epoch", value).code == "CKM574"


def test_a_value_is_copied_and_may_not_hold_itself() -> None:
    value: list[Any] = [1]
    changed = set_value({}, "a", value)
    value.append(2)
    assert changed == {"a": [1]}
    value.append(value)
    assert error(set_value, "epoch", value).code == "CKM574"
    inert = namespace(a=1)
    assert get(set_value({}, "a", inert), "a") is inert


def test_attributes_in_slots_are_found_and_set() -> None:
    tree = {"c": Object(Global("m", "C"), new=True, has_state=True, state=({"d": 1}, {"s": 2}))}
    assert [get(tree, f"c.{name}") for name in "ds"] == [1, 2]
    state = get(set_value(set_value(tree, "c.s", 3), "c.n", 4), "c")
    assert isinstance(state, Object)
    assert state.state == ({"d": 1, "n": 4}, {"s": 3})
    tree["c"].state = (None, {"s": 2})
    state = get(set_value(tree, "c.s", 3), "c")
    assert isinstance(state, Object)
    assert state.state == (None, {"s": 3})


def test_changes_survive_real_pickling() -> None:
    saved = {"args": argparse.Namespace(heads=2), "meta": OrderedDict(a=1)}
    tree = loads(pickle.dumps(saved), persistent=lambda claim: None)
    changed = rename(set_value(tree, "args.heads", 8), "meta.a", "meta.b")
    back = pickle.loads(dumps(changed, storage_key=lambda storage: storage.key))
    assert back == {"args": argparse.Namespace(heads=8), "meta": OrderedDict(b=1)}


names = st.text(st.characters(categories=["L"]), min_size=1, max_size=3)
trees = st.recursive(
    st.integers() | st.text(), lambda inner: st.dictionaries(names, inner, min_size=1), max_leaves=9
)


@given(st.dictionaries(names, trees, min_size=1), st.data())
def test_dropping_what_was_set_gives_the_old_tree(tree: dict[object, object], data: Any) -> None:
    path = data.draw(names)
    before = copy.deepcopy(tree)
    if not has(tree, path):
        assert drop(set_value(tree, path, 1), path) == tree
        first = str(next(iter(tree)))
        assert rename(rename(tree, first, path), path, first) == tree
    assert tree == before


def test_plain_is_json_whatever_is_in_the_tree() -> None:
    knot: list[object] = []
    knot.append(knot)
    tree = {
        **checkpoint(),
        "bytes": b"ab",
        "odd": [float("nan"), float("inf"), 1j, {1, 2}, TENSOR.storage, object()],
        "class": Global("m", "C"),
        "deque": Object(Global("collections", "deque"), ((), 3), items=[1, b"x"]),
        "array": Object(Global("numpy", "dtype"), ("f4",), has_state=True, state=(3, "<")),
        "knot": knot,
        "twice": [{"a": 1}] * 2,
    }
    shown = plain(tree)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert isinstance(shown, dict)
    assert shown["state_dict"]["fc.weight"] == {
        "__class__": "torch.Tensor",
        "dtype": "float32",
        "shape": [1],
    }
    assert shown["knot"] == [{"__class__": "cycle"}]
    assert shown["twice"] == [{"a": 1}, {"a": 1}]
    assert shown["hyper_parameters"]["n_head"] == 4
