"""Groups of the new model: descendants, new parameters, order; and what is left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ckmigrate import expr as ex
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr, Source
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.param_groups import NewModel, OldGroups, regrouped


def source(name: str, *shape: int) -> Source:
    return Source(name, TensorSpec(DType.F32, shape))


def fresh(*shape: int) -> Expr:
    return ex.fill(bytes(4), TensorSpec(DType.F32, shape))


W, B, V, C = source("w", 2, 2), source("b", 2), source("v", 2, 2), source("c", 2)
NDIMS = {"w": 2, "b": 1, "v": 2, "c": 1}


def old(*names: Sequence[str], **more: Any) -> OldGroups:
    count = len(names)
    values: dict[str, Any] = {
        "names": names,
        "optimizer": [0] * count,
        "alike": list(range(count)),
        "order": ["w", "b", "v", "c"],
        "ndims": NDIMS,
    }
    return OldGroups(**{**values, **more})


def new(entries: Mapping[str, Expr], **more: Any) -> NewModel:
    return NewModel(
        **{"parameters": [*entries], "trainable": [*entries], **more, "entries": entries}
    )


def refusal(before: OldGroups, after: NewModel, *words: str) -> None:
    with pytest.raises(MigrationError) as caught:
        regrouped(before, after)
    assert caught.value.code == "CKM577"
    assert all(word in str(caught.value) for word in (*words, "optimizer ="))


SPLIT = old(["w", "v"], ["b", "c"])


def test_descendants_stay_in_their_group_in_the_order_of_the_model() -> None:
    entries = {"v": V, "c": C, "top": ex.slice_(W, 0, 0, 1), "low": ex.slice_(W, 0, 1, 2), "b": B}
    assert regrouped(SPLIT, new(entries)) == (("v", "top", "low"), ("c", "b"))


def test_parts_of_one_group_may_become_one() -> None:
    assert regrouped(SPLIT, new({"wv": ex.concat([W, V], 0)})) == (("wv",), ())


def test_parts_of_groups_with_other_settings_may_not() -> None:
    before, both = old(["w"], ["v"]), new({"wv": ex.concat([W, V], 0)})
    refusal(before, both, "'w' in group 0", "'v' in group 1")
    assert regrouped(old(["w"], ["v"], alike=[0, 0]), both) == (("wv",), ())
    refusal(old(["w"], ["v"], alike=[0, 0], optimizer=[0, 1]), both)


def test_a_frozen_parameter_stays_out_and_mixes_with_none() -> None:
    before = old(["w"])
    assert regrouped(before, new({"w": W, "v": V})) == (("w",),)
    refusal(before, new({"wv": ex.concat([W, V], 0)}), "'v' is not")
    buffer = old(["w"], buffers=["v"])
    assert regrouped(buffer, new({"wv": ex.concat([W, V], 0)})) == (("wv",),)


def test_what_a_function_takes_may_be_no_parameter() -> None:
    (made,) = ex.call(lambda w, m: w, [W, V], [W.spec])
    assert regrouped(old(["w"]), new({"masked": made})) == (("masked",),)


def test_a_new_parameter_joins_the_only_group() -> None:
    assert regrouped(old(["w", "b"]), new({"n": fresh(3), "w": W, "b": B})) == (("n", "w", "b"),)


def test_of_groups_of_matrices_and_vectors_it_joins_its_kind() -> None:
    entries = {"w": W, "n": fresh(3, 3), "m": fresh(3), "b": B, "v": V, "c": C}
    assert regrouped(SPLIT, new(entries)) == (("w", "n", "v"), ("m", "b", "c"))
    refusal(old(["w", "b"], ["v", "c"]), new(entries), "'n' is new", "2 groups")


def test_whether_the_optimizer_holds_a_new_parameter_must_show() -> None:
    held = {"w": W, "b": B, "n": fresh(3)}
    refusal(old(["w"]), new(held), "'n' is new and trainable", "some are not")
    assert regrouped(old(["w"]), new(held, trainable=["w", "n"])) == (("w", "n"),)
    assert regrouped(old(["w"]), new(held, trainable=["w"])) == (("w",),)
    assert regrouped(old(["w", "b"]), new(held, trainable=["w"])) == (("w", "b", "n"),)
    refusal(old(["w", "b"]), new(held, trainable=["w", "b"]), "'n' is new and frozen")


def test_without_a_model_only_what_is_new_is_open() -> None:
    named: dict[str, Any] = {"by_name": [0]}
    after = new({"v2": V, "w2": W}, parameters=None)
    assert regrouped(old(["w", "v"], **named), after) == (("v2", "w2"),)
    refusal(old(["w"], **named), new({"w": W, "n": fresh(3)}, parameters=None), "no model")


def test_a_group_in_an_order_of_its_own_keeps_it_where_nothing_else_changes() -> None:
    own = old(["v", "w"])
    assert regrouped(own, new({"w2": W, "b": B, "v2": V})) == (("v2", "w2"),)
    refusal(own, new({"v2": V, "w2": W}), "order of the model")
    refusal(own, new({"w2": W, "v2": ex.slice_(V, 0, 0, 1)} | {"v3": ex.slice_(V, 0, 1, 2)}))
    assert regrouped(old(["v", "w"], by_name=[0]), new({"w2": W, "v2": V})) == (("w2", "v2"),)
