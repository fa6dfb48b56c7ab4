"""`squash` and `prune` as commands: what they say, what they write, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_inside import InsideToy
from tests.cli_project import IDS, Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def listing(toy: Toy) -> list[str]:
    return sorted(path.name for path in (toy.root / "migrations").glob("*.py"))


def test_a_stretch_is_squashed_checked_pruned_and_still_upgrades(toy: Toy) -> None:
    assert toy.run("lock").code == 0
    before = listing(toy)
    ran = toy.run("squash", "1:3", "--json")
    assert (ran.code, ran.json["replaces"]) == (0, list(IDS))
    assert listing(toy) == sorted([*before, "0003_squash_0001_to_0003.py"])
    assert toy.run("heads").out.startswith(IDS[2])
    assert toy.run("check", "--no-model").code == 0
    for options in ([], ["--graph"]):
        listed = toy.run("history", *options).out
        assert "= 0003_squash_0001_to_0003  (3 in one)" in listed
        assert len(listed.splitlines()) == 4 + len(options)
    old = toy.checkpoint()
    toy.run("upgrade", old, "--to", IDS[1], "-o", "inside.safetensors", "--no-model")
    assert toy.run("prune", "--dry-run", "--force").code == 0
    assert len(listing(toy)) == 4
    refused = toy.run("prune")
    assert (refused.code, "CKM326" in refused.err) == (3, True)
    ran = toy.run("prune", "--force")
    assert (ran.code, "removed 3 scripts" in ran.out) == (0, True)
    assert listing(toy) == ["0003_squash_0001_to_0003.py"]
    assert "stands for 3" in toy.run("history").out
    assert toy.run("lock", "--check").code == 0
    assert toy.run("check").code == 0
    inside = toy.run("upgrade", "inside.safetensors", "-o", "new.safetensors", "--no-model")
    assert (inside.code, "CKM415" in inside.err) == (4, True)
    assert toy.run("upgrade", old, "-o", "new.safetensors").code == 0
    assert toy.run("prune", "--force").out.startswith("nothing to prune")


def test_a_dry_run_shows_the_script_and_writes_nothing(toy: Toy) -> None:
    before = listing(toy)
    ran = toy.run("squash", ":", "--dry-run", "-m", "All of it.")
    assert (ran.code, "def upgrade(ck):" in ran.out) == (0, True)
    assert listing(toy) == before


def test_check_notices_a_squash_that_is_no_longer_the_same(toy: Toy) -> None:
    assert toy.run("squash", ":").code == 0
    path = toy.root / "migrations" / "0003_squash_0001_to_0003.py"
    path.write_text(path.read_text().replace("init.ones()", "init.zeros()"))
    ran = toy.run("check", "--no-model")
    assert (ran.code, "would not do what its 3 scripts do" in ran.out) == (1, True)


@pytest.mark.parametrize(
    ("stretch", "code", "word"),
    [("1", 2, "CKM245"), ("base:2", 2, "CKM245"), ("2:2", 3, "CKM318"), ("9:1", 4, "CKM401")],
)
def test_what_is_no_stretch_is_refused(toy: Toy, stretch: str, code: int, word: str) -> None:
    before = listing(toy)
    ran = toy.run("squash", stretch)
    assert (ran.code, word in ran.err) == (code, True)
    assert listing(toy) == before


def test_a_name_that_is_taken_is_not_replaced(toy: Toy) -> None:
    path: Path = toy.root / "migrations" / "0003_squash_0001_to_0003.py"
    assert toy.run("squash", ":").code == 0
    text = path.read_text()
    again = toy.run("squash", ":")
    assert (again.code, path.read_text()) == (3, text)
