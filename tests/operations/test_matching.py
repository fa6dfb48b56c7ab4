"""Patterns against the checkpoint: nothing found is an error unless it is optional."""

from __future__ import annotations

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.operations.matching import groups, select, stack_groups
from ckmigrate.spec import DType, TensorSpec

SPECS = {f"layers.{i}.w": TensorSpec(DType.F32, (1,)) for i in range(12)}


def test_matches_come_in_natural_order() -> None:
    found = select("layers.{i}.w", dict(reversed(SPECS.items())))
    assert [match.name for match in found] == list(SPECS)


def test_nothing_found_names_the_nearest() -> None:
    with pytest.raises(MigrationError) as caught:
        select("layer.{i}.w", SPECS)
    assert caught.value.code == "CKM505"
    assert "layers." in str(caught.value.why)
    assert "optional=True" in str(caught.value.fix)


def test_nothing_found_is_nothing_where_optional() -> None:
    assert select("x", SPECS, optional=True) == ()
    assert groups(("x.a", "x.b"), SPECS, optional=True) == ()
    assert stack_groups("x.{i}", "y", SPECS, optional=True) == ()


def test_an_incomplete_group_is_an_error_even_where_optional() -> None:
    with pytest.raises(MigrationError) as caught:
        groups(("layers.{i}.w", "layers.{i}.b"), SPECS, optional=True)
    assert caught.value.code == "CKM507"


def test_a_hole_is_an_error_even_where_optional() -> None:
    specs = {name: spec for name, spec in SPECS.items() if "3" not in name}
    with pytest.raises(MigrationError) as caught:
        stack_groups("layers.{i:int}.w", "w", specs, optional=True)
    assert caught.value.code == "CKM508"
