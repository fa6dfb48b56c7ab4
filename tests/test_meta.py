"""Metadata seen by a script: unknown during a replay, edits with their inverses."""

from __future__ import annotations

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.meta import Meta, MetaEdit, is_unknown_metadata
from ckmigrate.step import Irreversible

TREE = {"config": {"heads": 3, "name": "net"}, "epoch": 7}


def test_values_are_read_by_path() -> None:
    meta = Meta(TREE)
    assert meta.get("config.heads") == 3
    assert meta.get("config") == {"heads": 3, "name": "net"}
    assert "config.heads" in meta
    assert "config.depth" not in meta


def test_a_missing_path_is_named() -> None:
    with pytest.raises(MigrationError) as caught:
        Meta(TREE).get("config.head")
    assert caught.value.code == "CKM571"
    assert "config.head" in caught.value.what


def test_unknown_metadata_cannot_be_read_or_asked() -> None:
    for read in (lambda m: m.get("a"), lambda m: "a" in m):
        with pytest.raises(MigrationError) as caught:
            read(Meta.unknown())
        assert is_unknown_metadata(caught.value)


def test_unknown_metadata_takes_edits() -> None:
    edit = MetaEdit("rename", "a", new="b")
    assert Meta.unknown().apply(edit) == (Meta.unknown(), edit)


@pytest.mark.parametrize(
    ("edit", "tree"),
    [
        (
            MetaEdit("rename", "config.heads", new="config.n"),
            {"config": {"n": 3, "name": "net"}, "epoch": 7},
        ),
        (MetaEdit("set", "epoch", value=0), {**TREE, "epoch": 0}),
        (MetaEdit("set", "new", value=[1, "a", None]), {**TREE, "new": [1, "a", None]}),
        (MetaEdit("drop", "config.name"), {"config": {"heads": 3}, "epoch": 7}),
    ],
)
def test_an_edit_and_its_inverse(edit: MetaEdit, tree: object) -> None:
    meta, done = Meta(TREE).apply(edit)
    assert meta.tree == tree
    back, _ = meta.apply(done.inverse())
    assert back.tree == TREE


def test_the_old_tree_stays_as_it_was() -> None:
    Meta(TREE).apply(MetaEdit("set", "config.heads", value=9))
    assert TREE["config"] == {"heads": 3, "name": "net"}


def test_edits_on_unknown_metadata_cannot_be_undone_but_for_renames() -> None:
    assert MetaEdit("rename", "a", new="b").inverse() == MetaEdit("rename", "b", new="a")
    for edit in (MetaEdit("drop", "a"), MetaEdit("set", "a", value=1)):
        with pytest.raises(Irreversible):
            edit.inverse()


def test_a_value_set_from_a_list_does_not_change_with_it() -> None:
    values = [1]
    meta, _ = Meta(TREE).apply(MetaEdit("set", "new", value=values))
    values.append(2)
    assert meta.get("new") == [1]


def test_dropping_what_is_not_there_is_an_error() -> None:
    with pytest.raises(MigrationError):
        Meta(TREE).apply(MetaEdit("drop", "config.depth"))
