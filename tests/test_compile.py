"""A chain of real script files: traced, failing with their lines, undone, and told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ckmigrate.compile import start, trace, trace_back
from ckmigrate.errors import CkmigrateError, MigrationError
from ckmigrate.expr import Source
from ckmigrate.meta import Meta
from tests.scripted import refused, schema, script, shapes, traced, undone


def test_scripts_run_one_after_another_into_one_expression(tmp_path: Path) -> None:
    one = script(tmp_path, 'ck.split("qkv", ["q", "k", "v"])', name="0001_split.py")
    two = script(tmp_path, 'ck.concat(["q", "k", "v"], "w")', name="0002_join.py")
    result = trace([one, two], start(schema({"qkv": (6, 2)})), {})
    assert result.end.entries == {"w": Source("qkv", schema({"qkv": (6, 2)})["qkv"])}
    assert [step.script.slug for step in result.scripts] == ["split", "join"]
    assert result.scripts[0].after == result.scripts[1].before


def test_no_scripts_leave_everything(tmp_path: Path) -> None:
    state = start(schema({"a": (1,)}))
    assert trace([], state, {}).end is state


def test_names_of_a_tied_group_are_one_source() -> None:
    state = start(schema({"a": (1,), "b": (1,)}), ties=(("a", "b"),))
    assert state.entries["a"] == state.entries["b"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ('raise ValueError("not today")', "ValueError: not today"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("exit()", "SystemExit"),
        ("undefined", "NameError"),
        ('ck.rename("a")', "TypeError"),
        ('ck.reshape("a", lambda t: t.shape[7])', "IndexError"),
        ("assert False", "AssertionError"),
    ],
)
def test_a_script_that_raises_is_named_with_its_line(tmp_path: Path, body: str, word: str) -> None:
    refused(tmp_path, body, {"a": (1,)}, "upgrade()", word, code="CKM512", operation="")


def test_the_line_is_the_scripts_own_not_a_helpers(tmp_path: Path) -> None:
    body = """
    def helper():
        return {}["x"]
    ck.rename("a", "b")
    helper()
    """
    refused(tmp_path, body, {"a": (1,)}, "KeyError", code="CKM512", operation="", line=10)


def test_errors_outside_of_an_operation_have_a_line_too(tmp_path: Path) -> None:
    body = """
    t = ck["a"]
    t.reshape(7)
    """
    refused(tmp_path, body, {"a": (1,)}, "'a'", code="CKM524", operation="", line=10)
    refused(tmp_path, "concat([])", {}, code="CKM532", operation="")


@pytest.mark.parametrize("name", ["checkpoint.py", "compile.py", "split.py"])
def test_a_script_may_be_called_like_a_module_of_ours(tmp_path: Path, name: str) -> None:
    found = script(tmp_path, 'ck.split("a", ["x", "y"])', name=name)
    with pytest.raises(MigrationError) as caught:
        trace([found], start(schema({"a": (3,)})), {})
    assert caught.value.where == f"{name}, line 9: split"


def test_an_interrupt_is_not_an_error_of_the_script(tmp_path: Path) -> None:
    found = script(tmp_path, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        trace([found], start(schema({})), {})


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    body = 'ck.reshape("w", (ck.meta["config.heads"], -1))'
    specs = {"w": (12,)}
    tree = {"config": {"num_heads": 3}}
    refused(tmp_path, body, specs, "config", code="CKM571", operation="meta", tree=tree)
    refused(tmp_path, body, specs, "ck.params", code="CKM573", operation="meta")


def test_metadata_is_read_and_edited(tmp_path: Path) -> None:
    body = """
    ck.reshape("w", (ck.meta["config.num_heads"], -1))
    ck.meta.rename("config.num_heads", "config.heads")
    ck.meta.set("config.rotary", True)
    """
    result = traced(tmp_path, body, {"w": (12,)}, tree={"config": {"num_heads": 3}})
    assert shapes(result) == {"w": (3, 4)}
    assert result.end.meta.tree == {"config": {"heads": 3, "rotary": True}}


def test_metadata_goes_back(tmp_path: Path) -> None:
    body = """
    ck.meta.rename("n_head", "heads")
    ck.meta.set("rotary", True)
    ck.meta.set("depth", 5)
    ck.meta.drop("old")
    """
    tree = {"n_head": 3, "depth": 4, "old": [1]}
    result = traced(tmp_path, body, {"w": (1,)}, tree=tree)
    assert result.end.meta.tree == {"heads": 3, "depth": 5, "rotary": True}
    (step,) = result.scripts
    back = trace_back([step.script], result.end, {}, {step.script.id: step})
    assert back.end.meta.tree == tree


def test_every_obstacle_of_the_way_back_is_listed(tmp_path: Path) -> None:
    one = script(tmp_path, 'ck.drop("b", reason="unused")', name="0001_drop.py")
    two = script(tmp_path, "pass", name="0002_lost.py", extra='irreversible = "values merged"')
    three = script(
        tmp_path, 'ck.cast("a", "float16")\nck.slice("a", dim=0, stop=1)', name="0003_cast.py"
    )
    chain = [one, two, three]
    ids = ["aaaaaaaa01", "aaaaaaaa02", "aaaaaaaa03"]
    chain = [replace(found, id=name) for found, name in zip(chain, ids, strict=True)]
    up = trace(chain, start(schema({"a": (2,), "b": (1,)})), {})
    replay = {step.script.id: step for step in up.scripts}
    with pytest.raises(MigrationError) as caught:
        trace_back(chain[::-1], up.end, {}, replay)
    assert caught.value.code == "CKM550"
    told = "\n".join(caught.value.details)
    for word in ("0001_drop.py", "unused", "0002_lost.py", "values merged", "rounded", "cut off"):
        assert word in told
    assert len(caught.value.details) == 4


def test_without_a_replay_there_is_no_derived_way_back(tmp_path: Path) -> None:
    found = script(tmp_path, 'ck.rename("a", "b")')
    with pytest.raises(MigrationError) as caught:
        trace_back([found], start(schema({"b": (1,)})), {}, {})
    assert "cannot be replayed" in caught.value.details[0]


def test_a_written_downgrade_is_used(tmp_path: Path) -> None:
    after = """
    def downgrade(ck):
        ck.init("b", shape=(1,))
    """
    result = traced(tmp_path, 'ck.drop("b", reason="r")', {"b": (1,)}, after=after)
    assert shapes(undone(tmp_path, result)) == {"b": (1,)}


def test_a_downgrade_that_raises_is_called_so(tmp_path: Path) -> None:
    after = """
    def downgrade(ck):
        raise ValueError("no")
    """
    result = traced(tmp_path, "pass", {"b": (1,)}, after=after)
    with pytest.raises(MigrationError, match=r"downgrade\(\) raised ValueError: no"):
        undone(tmp_path, result)


def test_undoing_on_another_schema_says_where(tmp_path: Path) -> None:
    result = traced(tmp_path, 'ck.rename("a", "b")', {"a": (1,)})
    (step,) = result.scripts
    with pytest.raises(CkmigrateError) as caught:
        trace_back([step.script], start(schema({"c": (1,)})), {}, {step.script.id: step})
    assert caught.value.where == "0001_change.py, line 9: undo"


def test_the_digest_is_of_the_operations_alone(tmp_path: Path) -> None:
    plain = traced(tmp_path, 'ck.rename("a", "b")', {"a": (1,)})
    spaced = traced(tmp_path, '\n# why\nck.rename(\n  "a",\n  "b"\n)', {"a": (1,), "z": (2,)})
    other = traced(tmp_path, 'ck.rename("a", "c")', {"a": (1,)})
    assert plain.scripts[0].digest == spaced.scripts[0].digest
    assert plain.scripts[0].digest != other.scripts[0].digest
    assert plain.scripts[0].digest.startswith("1:")


def test_an_optional_rename_of_metadata_goes_both_ways(tmp_path: Path) -> None:
    body = 'ck.meta.rename("n", "m", optional=True)'
    for tree in ({"x": 1}, {"n": 2}):
        result = traced(tmp_path, body, {}, tree=tree)
        (step,) = result.scripts
        back = trace_back([step.script], result.end, {}, {step.script.id: step})
        assert back.end.meta == Meta(tree)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        ("ck.renmae('a', 'b')", "rename"),
        ("ck.meta.renam('a', 'b')", "rename"),
        ("ck['a'].reshap(1)", "reshape"),
        ("init.zeroes()", "zeros"),
    ],
)
def test_a_slip_in_a_method_is_told(tmp_path: Path, call: str, meant: str) -> None:
    error = refused(tmp_path, call, {"a": (1,)}, "AttributeError", code="CKM512", operation="")
    assert error.details[0].startswith("did you mean: ")
    assert meant in error.details[0]


def test_nothing_is_suggested_for_what_is_not_ours(tmp_path: Path) -> None:
    error = refused(tmp_path, "[].appendd(1)", {"a": (1,)}, code="CKM512", operation="")
    assert error.details == ()
