"""Whether branches may be joined as they are, on real scripts; and that the orders looked at are
those that a merge would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.commuting import disagreements, ways
from ckmigrate.identify import Replay
from ckmigrate.revisions.graph import History, build_history, read_history
from ckmigrate.revisions.script import Script
from ckmigrate.same_expr import is_twin
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import Schema
from tests.scripted import schema

BASE = {"a.w": (8, 4), "b.w": (4, 4), "head.w": (2, 4), "head.b": (2,)}


def name(index: int) -> str:
    return f"{index:02x}" * 5


def write(folder: Path, index: int, parent: int | None, body: str) -> None:
    revises = None if parent is None else name(parent)
    lines = [f'"""{index}"""', "import torch", "from ckmigrate import init, concat"]
    lines += [f"revision = {name(index)!r}", f"revises = {revises!r}", "api = 1"]
    text = "\n".join([*lines, "def upgrade(ck):", *(f"    {line}" for line in body.split("\n"))])
    (folder / f"{index:04d}_step.py").write_text(text)


def differing(folder: Path, *branches: tuple[str, ...]) -> tuple[str, ...]:
    """What speaks against joining branches of a first script that renames `head` to `out`."""
    write(folder, 0, None, 'ck.rename("head.*", "out.*")')
    heads, index = [], 0
    for branch in branches:
        parent = 0
        for body in branch:
            index += 1
            write(folder, index, parent, body)
            parent = index
        heads.append(name(parent))
    history = read_history(folder)
    return disagreements(history, heads, {"default": replay(history)})


def replay(history: History, base: Schema | None = None, **params: object) -> Replay:
    return Replay(history, Snapshot(base or schema(BASE), (), "default"), params)


@pytest.mark.parametrize(
    "branches",
    [
        [('ck.rename("a.w", "x.w")',), ('ck.rename("b.w", "y.w")',)],
        [
            ('ck.split("a.w", "{p,q}.w", dim=0)',),
            ('ck.reshape("b.w", (16,))', 'ck.cast("b.w", "float16")'),
        ],
        [('ck.rename("**", "net.**")',), ("pass",)],
        [('ck.init("n", shape=(2,), value=init.normal())',), ('ck.drop("b.w", reason="idle")',)],
        [('ck.compute("a.w", "a.w", lambda w: w * 2)',), ('ck.rename("b.w", "y.w")',)],
        [('k = 3\nck.compute("a.w", "a.w", lambda w: w * k)',), ("pass",)],
        [
            ('ck.rename("a.w", "x.w")',),
            ('ck.rename("b.w", "y.w")',),
            ('ck.drop("out.b", reason="no")',),
        ],
        [('ck.meta.set("n", 1)',), ('ck.meta.set("m", 1)',)],
        [('ck.meta.set("n", 1)',), ('ck.meta.set("n", 1)',)],
    ],
)
def test_branches_that_do_not_touch_each_other_may_be_joined(
    tmp_path: Path, branches: list[tuple[str, ...]]
) -> None:
    assert differing(tmp_path, *branches) == ()


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        # One order cannot run at all.
        ([('ck.rename("a.w", "x.w")',), ('ck.reshape("a.w", (32,))',)], "matches nothing"),
        ([('ck.rename("**", "net.**")',), ('ck.rename("a.w", "x.w")',)], "a.w"),
        ([('ck.init("n", shape=(2,))',), ('ck.init("n", shape=(2,))',)], "n"),
        # Both run, and end elsewhere.
        ([('ck.rename("**", "net.**")',), ('ck.init("n", shape=(2,))',)], "only from"),
        (
            [('ck.reshape("a.w", lambda t: (t.numel, 1))',), ('ck.permute("a.w", (1, 0))',)],
            "a.w: F32[",
        ),
        (
            [
                ('ck.permute("b.w", (1, 0))',),
                ('ck.compute("b.w", "b.w", lambda w: w + 1)',),
            ],
            "other values",
        ),
        ([('ck.tie("b.w", "c.w")',), ('ck.compute("b.w", "b.w", lambda w: w * 2)',)], "c.w"),
        # Nobody can tell.
        ([('ck.meta.set("n", 1)',), ('ck.meta.set("n", 2)',)], "edit metadata 'n'"),
        ([('ck.meta.set("n.k", 1)',), ('ck.meta.rename("n", "m")',)], "edit metadata"),
        ([('ck.meta["n"]',), ("pass",)], "reads metadata"),
        ([('ck.todo("x")',), ("pass",)], "todo"),
    ],
)
def test_branches_that_touch_each_other_may_not(
    tmp_path: Path, branches: list[tuple[str, ...]], words: str
) -> None:
    found = differing(tmp_path, *branches)
    assert any(words in line for line in found), found
    assert all("'default'" in line or "both" in line for line in found)


def test_a_condition_on_what_the_other_branch_made_is_noticed(tmp_path: Path) -> None:
    asks = 'if "n" in ck:\n    ck.drop("b.w", reason="there is n")'
    found = differing(tmp_path, ('ck.init("n", shape=(2,))',), (asks,))
    assert [line.split(":")[0] for line in found] == ["b.w"]


def test_differences_are_folded_over_layers(tmp_path: Path) -> None:
    write(tmp_path, 0, None, "pass")
    write(tmp_path, 1, 0, 'ck.rename("l.**", "k.**")')
    write(tmp_path, 2, 0, 'ck.init("l.{i}.s", like="l.{i}.w")')
    history = read_history(tmp_path)
    base = schema({f"l.{index}.w": (2, 2) for index in range(50)})
    known = {"default": replay(history, base)}
    assert len(disagreements(history, [name(1), name(2)], known)) < 4


@st.composite
def forks(draw: st.DrawFn) -> tuple[History, tuple[str, ...], Script]:
    """A history, some of its heads, and a merge of those."""
    size = draw(st.integers(3, 9))
    scripts = []
    for index in range(size):
        parent = draw(st.integers(0, index - 1)) if index else None
        number = draw(st.integers(0, 6))
        revises = None if parent is None else name(parent)
        scripts.append(Script(Path(f"{index}.py"), name(index), revises, number=number))
    history = build_history(scripts, folder=Path())
    heads = history.heads[: draw(st.integers(1, 4))]
    joined = heads if len(heads) > 1 else heads[0]
    return history, heads, Script(Path("m.py"), "ff" * 5, joined, number=99)


@settings(max_examples=200, deadline=None)
@given(forks())
def test_the_orders_are_those_that_a_merge_runs(
    fork: tuple[History, tuple[str, ...], Script],
) -> None:
    history, heads, merge = fork
    merged = build_history([*history.order, merge], folder=Path())
    shared = history.shared(heads)
    here = shared[-1].id if shared else None
    known = {way.scripts for way in ways(history, heads)}
    region = {script.id for script in next(iter(known))}
    for start in (here, *region):
        left = [s.id for s in merged.path_up(start, merge.id) if s is not merge]
        done = [s.id for s in history.path_up(here, start)]
        assert tuple(history.script(one) for one in (*done, *left)) in known


def with_default(value: object) -> object:
    return lambda tensor, scale=value: (tensor, scale)


def test_twins_are_functions_of_one_text_with_equal_values() -> None:
    def made(value: object, *, more: int = 1) -> object:
        return lambda tensor: (tensor, value, more)

    assert is_twin(made(1), made(1))
    assert not is_twin(made(1), made(2))
    assert not is_twin(made(1), made(1, more=2))
    assert is_twin(made(made(1)), made(made(1)))
    assert not is_twin(made(made(1)), made(made(2)))
    assert not is_twin(made(object()), made(object()))
    assert is_twin(with_default(1), with_default(1))
    assert not is_twin(with_default(1), with_default(2))
    assert not is_twin(lambda tensor: tensor, lambda tensor: tensor + 1)
