"""A tree that is too deep or unfolds too far is refused, whatever kind of node it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ckmigrate.formats import pickle_limits
from ckmigrate.formats.pickle_globals import BadPickle
from ckmigrate.formats.pickle_limits import MAX_DEPTH, check_limits
from ckmigrate.formats.pickle_tensors import StorageView
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.spec import DType, TensorSpec

STORAGE = Storage("0", DType.F32, 4)
CLASS = Global("pkg", "Class")
Wrap = Callable[..., object]


def state(*parts: object) -> Object:
    return Object(CLASS, has_state=True, state=parts)


def in_a_set(*parts: object) -> object:
    """What is no Object cannot stand in a set, so that each part gets one around it."""
    return {Object(CLASS, (part,)) for part in parts}


def attributes(*parts: object) -> Tensor:
    held = dict(enumerate(parts))
    return Tensor(STORAGE, TensorSpec(DType.F32, (1,)), 0, (1,), attributes=held)


WRAPS: dict[str, tuple[Wrap, int]] = {
    "list": (lambda *parts: list(parts), 1),
    "tuple": (lambda *parts: parts, 1),
    "dict": (lambda *parts: dict(enumerate(parts)), 1),
    "key": (lambda *parts: {(Object(CLASS, parts),): 1}, 4),
    "set": (in_a_set, 3),
    "frozenset": (lambda *parts: frozenset({Object(CLASS, parts)}), 3),
    "arguments": (lambda *parts: Object(CLASS, parts), 2),
    "keywords": (lambda *parts: Object(CLASS, (), {"a": parts}, new=True), 3),
    "items": (lambda *parts: Object(CLASS, items=list(parts)), 2),
    "entries": (lambda *parts: Object(CLASS, entries=dict(enumerate(parts))), 2),
    "state": (state, 2),
    "attributes": (attributes, 2),
}
EVERY_KIND = pytest.mark.parametrize(("wrap", "levels"), WRAPS.values(), ids=WRAPS)


def refused(tree: object) -> BadPickle:
    try:
        check_limits(tree, 0)
    except BadPickle as error:
        return error
    # Where this fails, pytest must not write the tree out: it is a bomb.
    pytest.fail("it was not refused", pytrace=False)


@EVERY_KIND
def test_depth_counts_through_every_kind(wrap: Wrap, levels: int) -> None:
    tree: object = 1
    for _ in range(MAX_DEPTH // levels):
        tree = wrap(tree)
    check_limits(tree, 0)
    for _ in range(levels):
        tree = wrap(tree)
    assert "nested deeper" in refused(tree).what


@EVERY_KIND
def test_what_is_shared_is_counted_as_often_as_it_is_reached(wrap: Wrap, levels: int) -> None:
    tree: object = [1] * 10
    for _ in range(25):
        tree = wrap(tree, tree)
    assert "over and over" in refused(tree).what


@EVERY_KIND
def test_a_circle_ends(wrap: Wrap, levels: int) -> None:
    circle: list[object] = []
    circle.append(wrap(circle, circle))
    check_limits(circle, 0)


@EVERY_KIND
def test_a_view_of_a_storage_is_found_in_every_kind(wrap: Wrap, levels: int) -> None:
    assert refused(wrap(StorageView(STORAGE, 0, 1))).code == "CKM713"


def test_a_million_levels_take_no_recursion() -> None:
    tree: object = 1
    for _ in range(1_000_000):
        tree = [tree]
    assert "nested deeper" in refused(tree).what
    while isinstance(tree, list):
        tree = tree.pop()  # Python's own way down would be a recursion


def test_leaves_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_limits, "_FREE_NODES", 100)
    check_limits([None, *range(98)], 0)
    assert "over and over" in refused([None, *range(100)]).what
