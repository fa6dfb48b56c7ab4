"""Which tensor of a copy is which weight: by one prefix, by several, or not with certainty."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.copy_names import NotCarried, read_groups

SEGMENTS = st.sampled_from(["a", "b", "module", "0"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=3).map(".".join)
PREFIXES = st.lists(SEGMENTS, max_size=2).map(lambda parts: "".join(f"{p}." for p in parts))


def tensor(*shape: int) -> Tensor:
    spec = TensorSpec(DType.F32, shape)
    return Tensor(Storage("0", spec.dtype, spec.nbytes), spec)


def read(node: object, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    return {group.prefix: list(group.tensors) for group in read_groups(node, weights)}


@given(st.sets(NAMES, min_size=1, max_size=5), PREFIXES)
def test_a_whole_copy_is_read_by_its_prefix_or_not_at_all(names: set[str], prefix: str) -> None:
    weights = {name: tensor(2, i + 1) for i, name in enumerate(sorted(names))}
    node = {prefix + name: tensor(*weight.spec.shape) for name, weight in weights.items()}
    assert read(node, weights) == {prefix: list(weights)}


@given(st.sets(NAMES, min_size=2, max_size=5), PREFIXES, st.data())
def test_a_partial_copy_is_never_read_as_other_weights(
    names: set[str], prefix: str, data: st.DataObject
) -> None:
    weights = {name: tensor(2, 2) for name in names}
    kept = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    node = {prefix + name: tensor(2, 2) for name in sorted(kept)}
    assume(not node.keys() <= names or not prefix)  # names of weights mean these weights
    try:
        assert read(node, weights) == {prefix: sorted(kept)}
    except NotCarried:
        assert any(name != other and other.endswith(f".{name}") for name in names for other in node)


def test_two_copies_and_counters_stand_in_one_mapping() -> None:
    weights = {"w": tensor(2, 3), "x.w": tensor(3)}
    node = {f"{p}.{n}": tensor(*t.spec.shape) for p in ("ema", "raw") for n, t in weights.items()}
    counters = {"step": tensor(), "decay": 0.9, "done": tensor(1)}
    assert read({**node, **counters}, weights) == {"ema.": ["w", "x.w"], "raw.": ["w", "x.w"]}


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ([tensor(2, 2)], "no names"),
        ({"v": tensor(2, 2)}, "not those of the weights"),
        ({"w": tensor(2, 2), "v": tensor(3)}, "'v' in it is no weight"),
        ({"w": tensor(2, 2), "u": tensor(3)}, "'u' in it is float32 [3], the weight float32 [4]"),
        ({"w": tensor(2, 2), 5: tensor(3)}, "'5' in it is a tensor"),
        ({"w": tensor(2, 2), "x": [tensor(3)]}, "'x' in it is of type list"),
    ],
)
def test_what_is_no_copy_by_name_is_told(node: object, why: str) -> None:
    with pytest.raises(NotCarried) as caught:
        read_groups(node, {"w": tensor(2, 2), "u": tensor(4)})
    assert why in str(caught.value)


def test_reading_takes_no_quadratic_time() -> None:
    weights = {f"layers.{i}.attention.weight": tensor(2, 2) for i in range(50_000)}
    node = {f"module.{name}": weight for name, weight in weights.items()}
    (group,) = read_groups(node, weights)
    assert len(group.tensors) == 50_000
