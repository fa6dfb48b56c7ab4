"""The life of an entry: what its unique values show is what the records tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from ckmigrate.compile import State, Trace, TracedScript
from ckmigrate.lineage import Life, Lineage
from ckmigrate.report.lineage import folded, life_data, life_lines
from ckmigrate.revisions.script import Script
from ckmigrate.spec import DType
from tests.cli_project import Toy
from tests.laws.chains import Case, cases, checkpoint, run
from tests.scripted import traced

WIDE = [DType.F32, DType.I64]


def leaves(life: Life) -> Iterator[Life]:
    """The ends of a life, with the name that each has there."""
    if not life.branches:
        yield life
    for branch in life.branches:
        yield from leaves(branch)


def last_name(life: Life) -> str:
    return next((e.name for e in reversed(life.events) if e.name is not None), life.name)


def lineage_of(case: Case) -> Lineage:
    ck = checkpoint(case.entries, case.ties)
    before = State(dict(ck.entries), ck.ties)
    done = run(ck, case.acts).recorder
    after = State(done.entries, done.ties)
    one = TracedScript(
        Script(Path("0001_x.py"), "aaaaaaaa"), tuple(done.records), (), before, after
    )
    return Lineage(Trace(before, (one,)))


@given(cases(WIDE))
@settings(deadline=None)
def test_unique_values_come_from_where_the_life_begins(case: Case) -> None:
    lineage, world = lineage_of(case), case.naive()
    holders: dict[int, set[str]] = {}
    for name, entry in case.entries.items():
        for value in entry.items.reshape(-1).tolist():
            holders.setdefault(value, set()).add(name)
    for name, entry in world.entries.items():
        begun = {last_name(leaf) for leaf in leaves(lineage.back(name)) if leaf.end == "start"}
        for value in set(entry.items.reshape(-1).tolist()) & holders.keys():
            assert holders[value] & begun, (name, lineage.back(name))


@given(cases(WIDE))
@settings(deadline=None)
def test_unique_values_go_where_the_life_ends(case: Case) -> None:
    lineage, world = lineage_of(case), case.naive()
    alone = {name for name in case.entries if not any(name in group for group in case.ties)}
    for name in alone:
        ends = {last_name(leaf) for leaf in leaves(lineage.forward(name)) if leaf.end == "end"}
        values = set(case.entries[name].items.reshape(-1).tolist())
        for other, entry in world.entries.items():
            if values & set(entry.items.reshape(-1).tolist()):
                assert other in ends, (name, other, lineage.forward(name))


BODY = """
ck.rename("classifier.1.weight", "head.fc.weight")
ck.reshape("head.fc.weight", (4, 3))
ck.init("head.fc.bias", shape=(4,))
ck.drop("old", reason="idle")
"""
SPECS = {"classifier.1.weight": (12,), "old": (1,), "same": (2,)}


def test_a_life_in_one_line(tmp_path: Path) -> None:
    lineage = Lineage(traced(tmp_path, BODY, SPECS))
    first, *rest = life_lines(lineage.back("head.fc.weight"))
    assert first == "head.fc.weight ← 0001 reshape ← 0001 rename ← classifier.1.weight"
    assert "0001_change.py, line 10: reshape" in rest[0]
    assert (
        rest[-1].strip() == "'classifier.1.weight' float32 [12] was there before the first script"
    )


@pytest.mark.parametrize(
    ("name", "end"), [("head.fc.weight", "start"), ("head.fc.bias", "new"), ("same", "start")]
)
def test_where_a_life_begins(tmp_path: Path, name: str, end: str) -> None:
    assert Lineage(traced(tmp_path, BODY, SPECS)).back(name).end == end


@pytest.mark.parametrize(("name", "end"), [("old", "gone"), ("same", "end")])
def test_where_a_life_ends(tmp_path: Path, name: str, end: str) -> None:
    assert Lineage(traced(tmp_path, BODY, SPECS)).forward(name).end == end


def test_several_sources_are_a_tree(tmp_path: Path) -> None:
    lineage = Lineage(traced(tmp_path, 'ck.concat(["a", "b"], "c")', {"a": (1,), "b": (2,)}))
    life = lineage.back("c")
    assert [branch.name for branch in life.branches] == ["a", "b"]
    assert life_lines(life)[0] == "c ← 0001 concat ← (a, b)"
    branches = life_data(life)["branches"]
    assert isinstance(branches, list)
    assert [branch["end"] for branch in branches] == ["start", "start"]


def test_an_expression_of_the_script_names_what_it_reads(tmp_path: Path) -> None:
    body = 'ck["c"] = concat([ck.take("a"), ck["b"]])'
    lineage = Lineage(traced(tmp_path, body, {"a": (1,), "b": (2,)}))
    assert [branch.name for branch in lineage.back("c").branches] == ["a", "b"]
    assert last_name(lineage.forward("a")) == "c"
    assert {last_name(leaf) for leaf in leaves(lineage.forward("b"))} == {"b", "c"}


def test_lives_that_differ_in_numbers_only_are_one(tmp_path: Path) -> None:
    specs = {f"layers.{i}.{p}": (2,) for i in range(3) for p in ("w", "b")}
    lineage = Lineage(traced(tmp_path, 'ck.rename("layers.{i}.**", "blocks.{i}.**")', specs))
    lives = [lineage.back(name) for name in lineage.trace.end.entries]
    assert [len(group) for group in folded(lives, ahead=False).values()] == [3, 3]


def test_blame_is_a_command(toy: Toy) -> None:
    ran = toy.run("blame", "encoder.layers.{i}.k.weight")
    assert (ran.code, ran.out.count("and so for 1 more entry")) == (0, 1)
    assert "0002 split" in ran.out
    ran = toy.run("blame", "--forward", "old.counter", "--json")
    (life,) = ran.json["found"]["default"]
    assert (life["end"], life["events"][0]["operation"]) == ("gone", "drop")
    assert life["events"][0]["line"] == 13
    made = toy.run("blame", "scale", "--from-file", toy.checkpoint())
    assert (made.code, "0003 init" in made.out) == (0, True)
    for arguments, word in (
        (["nothing"], "CKM247"),
        (["old.counter"], "--forward"),
        (["scale", "--model", "other"], "CKM246"),
    ):
        ran = toy.run("blame", *arguments)
        assert (ran.code, word in ran.err) == (2, True)
