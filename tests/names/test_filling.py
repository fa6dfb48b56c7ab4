"""The order of what is found, and filling in a target."""

from __future__ import annotations

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import Captures, natural_key, select, substitute
from tests.names.asking import code_of

# Order


def test_captured_integers_sort_as_integers() -> None:
    names = [f"moe.{expert}.w" for expert in sorted(range(12), key=str)]
    assert [found.captures["e"] for found in select("moe.{e}.w", names)] == [
        str(expert) for expert in range(12)
    ]


def test_alternatives_sort_in_the_order_of_the_pattern() -> None:
    names = [f"{part}.{layer}" for layer in (10, 9) for part in "kqv"]
    found = [entry.name for entry in select("{q,k,v}.{i}", names)]
    assert found == ["q.9", "q.10", "k.9", "k.10", "v.9", "v.10"]


def test_natural_key_orders_layers() -> None:
    names = ["layers.10.w", "layers.2.w", "layers.2", "block10_w", "block9_w"]
    assert sorted(names, key=natural_key) == [
        "block9_w",
        "block10_w",
        "layers.2",
        "layers.2.w",
        "layers.10.w",
    ]


# Substitution


@pytest.mark.parametrize(
    ("target", "captures", "name"),
    [
        ("x.{i+1}.w", {"i": "9"}, "x.10.w"),
        ("x.{i-9}", {"i": "9"}, "x.0"),
        ("enc.**", {"*0": "a.b"}, "enc.a.b"),
        ("enc.**", {"*0": ""}, "enc"),
        ("**", {"*0": "a"}, "a"),
        ("new.{rest}", {"rest": "a.b"}, "new.a.b"),
        ("a.{x,y}", {"{0}": "1"}, "a.y"),
        ("plain", {"i": "1", "*0": "z"}, "plain"),
    ],
)
def test_substitute_fills_a_target(target: str, captures: Captures, name: str) -> None:
    assert substitute(target, captures) == name


@pytest.mark.parametrize(
    ("target", "captures", "code"),
    [
        ("x.{i+1}", {"i": "a"}, "CKM503"),
        ("x.{i+1}", {"i": "01"}, "CKM503"),
        ("x.{i-1}", {"i": "0"}, "CKM503"),
        ("x.{i:int}", {"i": "a"}, "CKM503"),
        ("x.{i}", {"i": ""}, "CKM503"),
        ("**", {"*0": ""}, "CKM503"),
        ("x.{j}", {"i": "1"}, "CKM504"),
        ("x.*.*", {"*0": "a"}, "CKM504"),
        ("x.*", {"*0": "a", "*1": "b"}, "CKM504"),
        ("x.*", {"*0": "a.b"}, "CKM504"),
        ("{x,y}", {"{0}": "2"}, "CKM504"),
        ("{x,y}", {}, "CKM504"),
    ],
)
def test_substitute_refuses_what_does_not_fit(target: str, captures: Captures, code: str) -> None:
    with pytest.raises(MigrationError) as raised:
        substitute(target, captures)
    assert code_of(raised) == code
    assert target in raised.value.what
