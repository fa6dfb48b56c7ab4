"""The order of names as text: what is written is read back, whatever the order of the modules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckmigrate.errors import MigrationError
from ckmigrate.name_order import order_lines, ordered

NAMES = st.lists(
    st.lists(
        st.sampled_from(["a", "b", "c", "0", "1", "2", "10", "w", "é"]), min_size=1, max_size=4
    ).map(tuple),
    max_size=12,
    unique=True,
)


def module_by_module(names: list[tuple[str, ...]], seed: int) -> list[str]:
    """The names without those that are modules as well, in a random order of every module."""
    leaves = [n for n in names if not any(o != n and o[: len(n)] == n for o in names)]
    chance = random.Random(seed)
    ranks: dict[tuple[str, ...], float] = {}

    def key(name: tuple[str, ...]) -> list[float]:
        parts = (name[: n + 1] for n in range(len(name)))
        return [ranks.setdefault(part, chance.random()) for part in parts]

    return [".".join(name) for name in sorted(leaves, key=key)]


@given(NAMES, st.integers())
def test_an_order_of_modules_is_read_back(names: list[tuple[str, ...]], seed: int) -> None:
    listed = module_by_module(names, seed)
    lines = order_lines(listed)
    assert lines is not None
    assert ordered(random.Random(seed).sample(listed, len(listed)), lines) == tuple(listed)


def test_layers_that_are_alike_share_a_line() -> None:
    layers = [nn.ModuleDict({"out": nn.Linear(2, 2), "inner": nn.Linear(2, 2)}) for _ in range(12)]
    model = nn.ModuleDict({"layers": nn.ModuleList(layers), "embed": nn.Embedding(2, 2)})
    lines = order_lines(list(model.state_dict()))
    assert lines == {
        ".": "layers embed",
        "layers.{0..11}": "out inner",
        "layers.{0..11}.inner": "weight bias",
        "layers.{0..11}.out": "weight bias",
    }


@pytest.mark.parametrize("names", [["a.x", "b", "a.y"], ["a b.x", "a"], ["a..b", "a.c"], ["a\nb"]])
def test_names_that_are_not_module_by_module_have_no_order(names: list[str]) -> None:
    assert order_lines(names) is None


@pytest.mark.parametrize(
    "lines",
    [{"c": "x"}, {"a": "x"}, {"a": "x x"}, {"a": "x y z"}, {".": "b"}, {"a.{0..9}": "x y"}],
)
def test_lines_about_other_names_are_refused(lines: dict[str, str]) -> None:
    with pytest.raises((ValueError, MigrationError)):
        ordered(["a.x", "a.y", "b"], lines)
