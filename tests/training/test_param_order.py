"""Which parameter a number means: the only reading that fits, or none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import MigrationError
from ckmigrate.training.param_order import (
    Parameter,
    Slot,
    names_by_order,
    names_given,
    names_told,
)

SHAPES = st.sampled_from([(2,), (2, 3), (3, 3)])


def slots(*groups: Sequence[tuple[int, ...] | None]) -> list[Slot]:
    return [
        Slot(number, f"group {number}, parameter {position}", shape)
        for number, shapes in enumerate(groups)
        for position, shape in enumerate(shapes)
    ]


def model(**shapes: tuple[int, ...]) -> list[Parameter]:
    return [Parameter(name, shape) for name, shape in shapes.items()]


def refusal(code: str, call: object) -> MigrationError:
    assert callable(call)
    with pytest.raises(MigrationError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_one_group_with_every_parameter_is_in_the_order_of_the_model() -> None:
    same = model(a=(2, 2), b=(2, 2), c=(2, 2))
    assert names_by_order(slots([(2, 2)] * 3), same) == ("a", "b", "c")
    assert names_by_order(slots([None] * 3), same) == ("a", "b", "c")


def test_shapes_tell_groups_apart() -> None:
    layers = model(w=(2, 2), b=(2,), v=(2, 2), c=(2,))
    assert names_by_order(slots([(2, 2), (2, 2)], [(2,), (2,)]), layers) == ("w", "v", "b", "c")


def test_frozen_parameters_are_skipped_where_only_one_place_fits() -> None:
    layers = model(frozen=(5, 5), w=(2, 2), b=(2,))
    assert names_by_order(slots([(2, 2), (2,)]), layers) == ("w", "b")


@pytest.mark.parametrize(
    ("groups", "shapes"),
    [
        ([[(2, 2)], [(2, 2)]], {"a": (2, 2), "b": (2, 2)}),  # which group is which
        ([[(2, 2)]], {"a": (2, 2), "b": (2, 2)}),  # which one is frozen
        ([[None], [None]], {"a": (2, 2), "b": (2,)}),  # nothing tells
    ],
)
def test_what_could_be_taken_for_each_other_is_refused(
    groups: list[list[tuple[int, ...] | None]], shapes: dict[str, tuple[int, ...]]
) -> None:
    error = refusal("CKM566", lambda: names_by_order(slots(*groups), model(**shapes)))
    assert any("'a'" in line and " or " in line and "'b'" in line for line in error.details)
    assert "--param-order FILE" in (error.fix or "")
    assert "named_parameters" in (error.fix or "")


@pytest.mark.parametrize("shapes", [[(3,)], [(2,), (2,)]])
def test_an_order_that_does_not_fit_is_refused(shapes: list[tuple[int, ...]]) -> None:
    refusal("CKM566", lambda: names_by_order(slots(shapes), model(a=(2,))))


def test_an_unknown_order_is_refused() -> None:
    refusal("CKM566", lambda: names_by_order(slots([(2,)]), None))


def test_a_search_that_does_not_end_is_refused() -> None:
    groups = [[None] * 12 for _ in range(8)]
    many = model(**{f"p{number}": (2,) for number in range(96)})
    refusal("CKM566", lambda: names_by_order(slots(*groups), many))


@given(
    st.lists(SHAPES, min_size=1, max_size=6),
    st.lists(st.integers(-1, 2), min_size=6, max_size=6),
)
def test_a_reading_counts_where_it_is_the_only_one(
    shapes: list[tuple[int, ...]], groups: list[int]
) -> None:
    """By trying every way to put weights into groups."""
    weights = [Parameter(f"p{number}", shape) for number, shape in enumerate(shapes)]
    true = [[w for w, g in zip(weights, groups, strict=False) if g == n] for n in range(3)]
    places = slots(*[[w.shape for w in members] for members in true])
    fitting = set()
    for choice in itertools.product(range(-1, 3), repeat=len(weights)):
        made = [[w for w, g in zip(weights, choice, strict=True) if g == n] for n in range(3)]
        if [[w.shape for w in m] for m in made] == [[w.shape for w in m] for m in true]:
            fitting.add(tuple(w.name for members in made for w in members))
    if len(fitting) == 1:
        assert names_by_order(places, weights) == fitting.pop()
    else:
        refusal("CKM566", lambda: names_by_order(places, weights))


WEIGHTS = {name: Parameter(name, (2, 2)) for name in "abc"}


def test_names_in_the_file_are_believed_but_for_shapes() -> None:
    told = [Slot(0, "place", (2, 2), "b"), Slot(0, "place", None, "a")]
    assert names_told(told, WEIGHTS) == ("b", "a")
    unknown = [Slot(0, "place", None, "x")]
    assert "x" in refusal("CKM565", lambda: names_told(unknown, WEIGHTS)).details[0]
    odd = [Slot(0, "place", (4,), "b")]
    assert "'b' is [2, 2]" in refusal("CKM567", lambda: names_told(odd, WEIGHTS)).details[0]


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "x"], ["a", "b", "c"]])
def test_given_names_are_each_parameter_once(names: list[str]) -> None:
    places = slots([(2, 2), (2, 2)])
    assert names_given(places, ["b", "a"], WEIGHTS, "order.txt") == ("b", "a")
    error = refusal("CKM565", lambda: names_given(places, names, WEIGHTS, "order.txt"))
    assert error.where == "order.txt"
