"""The names that a user may have meant."""

from __future__ import annotations

import pytest

from ckmigrate.names import nearest


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("fc.wieght", "fc.weight"),
        ("layers.12.attn.weight", "layers.11.attn.weight"),
        ("layer.{i}.attn.{p}", "layers.0.attn.weight"),
        ("layer.**", "layers.0.attn.weight"),
        ("**.heed.bias", "model.head.bias"),
        ("layers.{i}.atn.{weight,bias}", "layers.0.attn.weight"),
        ("not a {pattern", None),
    ],
)
def test_nearest_finds_the_likely_name(text: str, first: str | None) -> None:
    names = ["fc.weight", "model.head.bias", *(f"layers.{i}.attn.weight" for i in range(12))]
    found = nearest(text, names)
    assert (found[0] if found else None) == first


def test_nearest_names_first_what_only_has_a_prefix_more() -> None:
    names = ["backbone.fc1.weight", "net.layers.0.fc.weight", "net.layers.1.fc.weight", "fcx.b"]
    assert nearest("fc.{p}", names)[0].endswith(".fc.weight")
    assert nearest("layers.{i:int}.fc.{p}", names)[0].startswith("net.layers.")
    assert nearest("fc.weight", names)[0].startswith("net.layers.")
    assert "backbone.fc1.weight" not in nearest("fc.weight", names, 1)


def test_nearest_offers_one_name_for_a_set_of_layers_and_keeps_the_limit() -> None:
    names = [f"h.{layer}.{part}.weight" for layer in range(50) for part in ("q", "k", "v", "o")]
    assert len({name.split(".")[2] for name in nearest("h.0.x.weight", names, 4)}) == 4
    assert len(nearest("h.0.x.weight", names, 2)) == 2
    assert nearest("h", []) == ()
