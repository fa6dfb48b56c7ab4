"""The drawing of a history: what it looks like, and that every edge can be read back from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.report.graph import Row, draw
from ckmigrate.report.revisions import graph_lines
from ckmigrate.revisions.graph import build_history
from ckmigrate.revisions.script import Script

Nodes = Sequence[tuple[str, tuple[str, ...]]]
Edge = tuple[str, str]
FOLDER = Path("migrations")


@st.composite
def dags(draw_: st.DrawFn) -> Nodes:
    """Any graph, children first; also with several first nodes and needless parents."""
    size = draw_(st.integers(0, 14))
    found = []
    for index in range(size):
        least = 1 if index and draw_(st.integers(0, 9)) else 0
        parents = draw_(
            st.lists(st.integers(0, index - 1), min_size=least, max_size=4, unique=True)
            if index
            else st.just([])
        )
        found.append((f"n{index}", tuple(f"n{parent}" for parent in parents)))
    return found[::-1]


def edges_of(nodes: Nodes) -> set[Edge]:
    return {(node, parent) for node, parents in nodes for parent in parents}


def read_back(rows: Iterable[Row]) -> set[Edge]:
    """The edges that somebody sees who follows the lines from the top to the bottom.

    straight, slanted  whose lines come into a lane from above: along it, and through a `/`
    """
    edges: set[Edge] = set()
    straight: dict[int, set[str]] = defaultdict(set)
    slanted: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        text = row.lanes
        leaving: dict[int, set[str]] = defaultdict(set)
        for column, char in enumerate(text):
            assert (char in "|*") if column % 2 == 0 and char != " " else char in " /\\_", text
            if char in "|*\\/":
                lane = column // 2 + (char == "/")
                leaving[lane].add(char)
        arriving = {lane for lanes in (straight, slanted) for lane in lanes if lanes[lane]}
        assert all(leaving[lane] for lane in arriving), f"a line ends above {text!r}"
        assert arriving >= {lane for lane in leaving if "*" not in leaving[lane]}, text
        below: tuple[dict[int, set[str]], dict[int, set[str]]] = (
            defaultdict(set),
            defaultdict(set),
        )
        for lane, chars in leaving.items():
            if "*" in chars:
                assert chars == {"*"}
                assert row.node is not None
                edges |= {(child, row.node) for child in straight[lane] | slanted[lane]}
                below[0][lane] |= {row.node}
                continue
            crosses = {"|", "/"} <= chars and straight[lane] and slanted[lane]
            for char in chars:
                both = straight[lane] | slanted[lane]
                lines = (slanted[lane] if char == "/" else straight[lane]) if crosses else both
                goal = lane - 1 if char == "/" else lane + (char == "\\")
                while char == "/" and text[2 * goal - 1 : 2 * goal] == "_":
                    goal -= 1
                below[1 if char == "/" else 0][goal] |= lines
        straight, slanted = below
        if row.node is not None:
            roots = {lane for lane in straight if straight[lane] == {row.node}}
            assert len(roots) == 1, "a node stands once"
    return edges


def lanes(*nodes: tuple[str, str]) -> list[str]:
    return [row.lanes for row in draw([(node, tuple(parents)) for node, parents in nodes])]


def test_a_line_has_one_lane() -> None:
    assert lanes(("c", "b"), ("b", "a"), ("a", "")) == ["*", "*", "*"]


def test_a_fork_and_a_merge_look_as_in_git() -> None:
    drawn = lanes(("e", "cd"), ("d", "b"), ("c", "b"), ("b", "a"), ("a", ""))
    assert drawn == ["*", "|\\", "| *", "* |", "|/", "*", "*"]


def test_heads_of_one_parent_stay_narrow() -> None:
    assert lanes(("d", "a"), ("c", "a"), ("b", "a"), ("a", "")) == [
        *("*", "| *", "|/"),
        *("| *", "|/", "*"),
    ]


def test_a_merge_of_three_opens_lane_after_lane() -> None:
    drawn = lanes(("e", "bcd"), ("d", "a"), ("c", "a"), ("b", "a"), ("a", ""))
    assert drawn[:4] == ["*", "|\\", "|\\ \\", "| | *"]


def test_a_line_crosses_the_lanes_between() -> None:
    drawn = lanes(("g", "a"), ("f", "b"), ("e", "c"), ("d", "a"), ("c", "a"), ("b", "a"), ("a", ""))
    assert drawn[:6] == ["*", "| *", "| | *", "| | | *", "| |_|/", "|/| |"]


@settings(max_examples=300, deadline=None)
@given(dags())
def test_every_edge_can_be_read_back(nodes: Nodes) -> None:
    # Below a first node there is nothing, so those are given a line to the end of the drawing.
    closed = [(node, parents or ("end",)) for node, parents in nodes]
    rows = draw([*closed, ("end", ())]) if closed else draw([])
    assert [row.node for row in rows if row.node] == [node for node, _ in closed] + (
        ["end"] if closed else []
    )
    assert read_back(rows) == edges_of(closed)


@settings(max_examples=100, deadline=None)
@given(dags())
def test_several_first_nodes_can_be_drawn_too(nodes: Nodes) -> None:
    rows = draw(nodes)
    assert [row.node for row in rows if row.node] == [node for node, _ in nodes]
    assert all(row.lanes == row.lanes.rstrip() for row in rows)


def branches(count: int, length: int) -> list[Script]:
    """One first script, and so many branches whose scripts take turns."""
    scripts = [Script(FOLDER / "0000_root.py", "aa" * 5, None, number=0, message="Begin")]
    for step in range(length):
        for branch in range(count):
            parent = f"{step - 1:04x}{branch:06x}" if step else "aa" * 5
            number = 1 + step * count + branch
            path = FOLDER / f"{number:04d}_a_long_name_of_a_script.py"
            id_ = f"{step:04x}{branch:06x}"
            scripts.append(Script(path, id_, parent, number=number, message="What it does " * 5))
    return scripts


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_cuts_texts_and_never_ids(width: int) -> None:
    history = build_history(branches(3, 2), folder=FOLDER)
    lines = graph_lines(history, width=width)
    assert all(len(line) <= width for line in lines)
    assert all(any(script.id in line for line in lines) for script in history.order)


def test_many_branches_keep_their_ids_however_narrow_it_is() -> None:
    history = build_history(branches(60, 2), folder=FOLDER)
    lines = graph_lines(history, width=80)
    assert all(any(script.id in line for line in lines) for script in history.order)
    assert max(map(len, lines)) <= 2 * 60 + 2 + 10


def test_an_empty_history_has_no_lines() -> None:
    assert graph_lines(build_history([], folder=FOLDER)) == []


def test_releases_and_marks_stand_before_what_may_be_cut() -> None:
    head = Script(FOLDER / "0001_x.py", "bb" * 5, None, release="1.2", message="Long " * 30)
    (line, base) = graph_lines(build_history([head], folder=FOLDER), width=40)
    assert line.startswith("*  bbbbbbbbbb  [1.2]  (head)  0001_x")
    assert (line[-1], base) == ("…", "o  base")


def test_a_squashed_script_stands_below_the_last_that_it_replaces() -> None:
    def script(revision: str, parent: str | None, number: int, slug: str) -> Script:
        path = FOLDER / f"{number:04}_{slug}.py"
        return Script(path, revision, parent, number=number, slug=slug, message=slug)

    one, two = script("aa11111111", None, 1, "one"), script("bb22222222", "aa11111111", 2, "two")
    squash = replace(script("bb22222222", None, 2, "both"), replaces=(one.id, two.id))
    three, other = script("cc33333333", two.id, 3, "three"), script("dd44444444", one.id, 3, "o")
    history = build_history([one, two, squash, three], folder=FOLDER)
    assert graph_lines(history)[1:] == [
        "*  bb22222222  (squashed)  0002_two  two",
        "|  = 0002_both  (2 in one)  both",
        "*  aa11111111  (squashed)  0001_one  one",
        "o  base",
    ]
    assert all(len(line) <= 30 for line in graph_lines(history, width=30))
    assert other.id not in history
