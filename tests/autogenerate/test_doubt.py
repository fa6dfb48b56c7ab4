"""Doubt spreads to what cannot be told from what is doubted."""

from __future__ import annotations

from ckmigrate.autogenerate.draft import draft
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType, Schema, TensorSpec


def snapshot(*modules: str) -> Snapshot:
    """A square matrix and a bias in each module."""
    entries = {}
    for module in modules:
        entries[f"{module}.weight"] = TensorSpec(DType.F32, (4, 4))
        entries[f"{module}.bias"] = TensorSpec(DType.F32, (4,))
    return Snapshot(Schema(entries), (), "m")


def certainties(old: Snapshot, new: Snapshot) -> dict[str, str]:
    found = draft(old, new, initialisers=dict.fromkeys(new.schema, "init.zeros()"))
    return {name: p.certainty for p in found.proposals for name in p.targets}


def test_an_element_more_of_a_list_is_in_doubt_when_anything_in_the_list_is() -> None:
    """Block 1 may be the new one, with the others behind it moved on by one."""
    blocks = [f"encoder.blocks.{name}" for name in ("0.attn", "1.attn", "1.extra", "2.attn")]
    added = [f"encoder.blocks.{name}" for name in ("0.core", "2.extra", "3.attn")]
    found = certainties(snapshot(*blocks), snapshot(*blocks, *added))
    assert found["encoder.blocks.0.core.weight"] == "guess"
    assert found["encoder.blocks.3.attn.weight"] == "guess"
    assert found["encoder.blocks.3.attn.bias"] == "guess"


def test_what_is_new_outside_of_the_list_stays_certain() -> None:
    blocks = [f"encoder.blocks.{name}" for name in ("0.attn", "1.attn", "1.extra", "2.attn")]
    added = [f"encoder.blocks.{name}" for name in ("0.core", "2.extra", "3.attn")]
    old = snapshot(*blocks)
    new = snapshot(*blocks, *added)
    schema = Schema({**new.schema, "scale": TensorSpec(DType.F32, (7,))})
    assert certainties(old, Snapshot(schema, (), "m"))["scale"] == "certain"
