"""The equations: read once, both sides as tuples of axes."""

from __future__ import annotations

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.operations.einops_pattern import parse_rearrangement
from ckmigrate.spec import DType, TensorSpec


def test_a_side_is_a_tuple_of_groups() -> None:
    found = parse_rearrangement("(h two d) c 1 -> c(d h two)()")
    assert found.left == (("h", "two", "d"), ("c",), ())
    assert found.right == (("c",), ("d", "h", "two"), ())


def test_solving_gives_factors_order_and_shape() -> None:
    found = parse_rearrangement("(h two d) c -> (h d two) c")
    spec = TensorSpec(DType.F32, (24, 5))
    assert found.solve("w", spec, {"h": 3, "two": 2}) == ((3, 2, 4, 5), (0, 2, 1, 3), (24, 5))


def test_empty_tensors_can_be_rearranged() -> None:
    found = parse_rearrangement("(h d) c -> (d h) c")
    spec = TensorSpec(DType.F32, (0, 5))
    assert found.solve("w", spec, {"h": 3}) == ((3, 0, 5), (1, 0, 2), (0, 5))


@pytest.mark.parametrize("equation", ["", "->", "a->b->c", "2 a -> a 2", "a% -> a"])
def test_what_cannot_be_read_is_shown(equation: str) -> None:
    if equation == "->":
        assert parse_rearrangement(equation).left == ()
        return
    with pytest.raises(MigrationError) as caught:
        parse_rearrangement(equation)
    assert caught.value.code == "CKM525"
    assert caught.value.why
