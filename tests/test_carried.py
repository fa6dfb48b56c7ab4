"""Labels of training state, and several nodes as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.expr import Source
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.training.carried import Carried, CarriedNode, Labels, Summary, joined

KEYS = st.one_of(st.sampled_from(["a", "b", "a.b", "1", "", "'"]), st.integers(0, 2))
PATHS = st.lists(st.lists(KEYS, max_size=3).map(tuple), max_size=12)


@given(PATHS, st.lists(st.sampled_from(["a", "training state: a", "new training state: a"])))
def test_every_path_has_a_label_of_its_own_that_no_weight_has(
    paths: list[tuple[object, ...]], weights: list[str]
) -> None:
    labels = Labels(weights)
    found = {path: labels.of(path) for path in paths}
    assert len(set(found.values())) == len(found)
    assert not set(found.values()) & set(weights)
    assert all(labels.of(path) == label for path, label in found.items())


def test_a_label_reads_as_the_place_of_the_tensor() -> None:
    label = Labels(["w"]).of(("optimizer_states", 0, "state", 3, "exp_avg"))
    assert label == "training state: optimizer_states.0.state.3.exp_avg"


def test_nodes_are_joined_in_their_order() -> None:
    spec = TensorSpec(DType.F32, (2,))
    tensor = Tensor(Storage("0", spec.dtype, 8), spec)
    parts = [
        Carried(
            (CarriedNode((key,), "copy", lambda made: made, Summary(key)),),
            {f"new {key}": Source(key, spec)},
            {key: tensor},
            ties=((key, "w"),),
        )
        for key in "ab"
    ]
    found = joined(parts)
    assert [node.path for node in found.nodes] == [("a",), ("b",)]
    assert list(found.entries) == ["new a", "new b"]
    assert list(found.sources) == ["a", "b"]
    assert found.ties == (("a", "w"), ("b", "w"))
    assert joined([]) == Carried(entries={}, sources={})
