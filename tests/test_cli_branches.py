"""merge and rebase: the command on a small project, without git."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.revisions.graph import read_history
from tests.cli_inside import InsideToy
from tests.cli_project import IDS, Toy, make_toy

LEFT, RIGHT, MORE = "d4d4d4d4d4", "e5e5e5e5e5", "f6f6f6f6f6"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


@pytest.fixture
def forked(toy: Toy) -> Toy:
    """`left` beside `right` and `more`, after the third script; with a lock."""
    toy.script(4, "left", '    ck.rename("head.**", "out.**")\n', revision=LEFT)
    body = '    ck.init("extra", shape=(2,), value=init.ones())\n'
    toy.script(4, "right", body, revision=RIGHT)
    toy.script(5, "more", '    ck.rename("extra", "extra.a")\n', revision=MORE, revises=RIGHT)
    assert toy.run("lock").code == 0
    return toy


def texts(toy: Toy) -> dict[str, bytes]:
    folder = toy.root / "migrations"
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_merge_joins_heads_that_do_not_touch_each_other(forked: Toy) -> None:
    ran = forked.run("merge", "-m", "Join both", "--json")
    assert ran.code == 0
    script = read_history(forked.root / "migrations").script(ran.json["revision"])
    assert script.parents == (LEFT, MORE)
    assert script.path.name == "0006_join_both.py"
    assert "either order" in script.source
    assert forked.run("check", "--no-model").code == 0
    assert forked.run("lock", "--check").code == 0
    new = forked.root / "new.safetensors"
    assert forked.run("upgrade", forked.checkpoint(), "-o", new, "--no-model").code == 0
    assert forked.run("upgrade", new, "--in-place", "--no-model").code == 0


def test_a_merge_of_one_head_has_nothing_to_do(toy: Toy) -> None:
    ran = toy.run("merge")
    assert (ran.code, ran.out.startswith("nothing to merge")) == (0, True)


def test_a_merge_where_the_order_matters_is_refused(forked: Toy) -> None:
    forked.script(
        5, "other", '    ck.drop("out.bias", reason="no")\n', revises=LEFT, revision="ab" * 5
    )
    forked.script(6, "third", '    ck.rename("out.bias", "b")\n', revises=LEFT, revision="cd" * 5)
    before = texts(forked)
    ran = forked.run("merge", "other", "third")
    assert ran.code == 3
    assert "error[CKM336]" in ran.err
    assert "0006_third.py, line 11: rename: no entry matches 'out.bias'" in ran.err
    assert "ckmigrate rebase --onto" in ran.err
    assert f"--revises {'ab' * 5} --revises {'cd' * 5}" in ran.err
    assert texts(forked) == before


def test_without_a_snapshot_nothing_is_proved(forked: Toy) -> None:
    (forked.root / "migrations" / "schema" / "base" / "default.json").unlink()
    ran = forked.run("merge")
    assert (ran.code, "there is no base snapshot" in ran.err) == (3, True)


@pytest.mark.parametrize("names", [["left"], ["left", "right"], ["left", "base"]])
def test_only_heads_are_merged(forked: Toy, names: list[str]) -> None:
    ran = forked.run("merge", *names)
    assert (ran.code, "error[CKM258]" in ran.err) == (2, True)


def test_a_rebase_puts_a_branch_behind_the_other(forked: Toy) -> None:
    tagged = forked.root / "tagged.safetensors"
    to = ("--to", MORE, "--no-model")
    assert forked.run("upgrade", forked.checkpoint(), "-o", tagged, *to).code == 0
    ran = forked.run("rebase", "--onto", "left", "--json")
    assert ran.code == 0
    assert [item["formerly"] for item in ran.json["moved"]] == [RIGHT, MORE]
    head = ran.json["heads"]
    assert head == [ran.json["moved"][-1]["revision"]]
    assert forked.run("check", "--no-model").code == 0
    assert forked.run("lock", "--check").code == 0
    assert forked.run("rebase").out.startswith("nothing to rebase")

    refused = forked.run("current", tagged)
    assert (refused.code, "error[CKM416]" in refused.err) == (4, True)
    assert f"it did not go through {LEFT} (0004_left.py)" in refused.err
    assert f"downgrade --to {IDS[2]}" in refused.err
    assert "--from" not in refused.err
    assert forked.run("current", tagged, "--from", "head").code in (0, 2)
    forced = forked.run("upgrade", tagged, "-o", "x.safetensors", "--from", LEFT, "--no-model")
    assert forced.code == 5
    told = f"  - --from {LEFT} (0004_left.py) contradicts the tag of the checkpoint, which says"
    assert f"{told} more ({MORE})" in forced.err
    shown = forked.run("show", "head")
    assert f"formerly:   {MORE}" in shown.out


def test_a_dry_run_changes_nothing_and_says_what_would(forked: Toy) -> None:
    before = texts(forked)
    ran = forked.run("rebase", "--onto", "left", "--dry-run")
    assert ran.code == 0
    assert "0004_right.py → 0005_right.py" in ran.out
    assert "would write migrations/0005_right.py" in ran.out
    assert "would remove migrations/0004_right.py" in ran.out
    assert texts(forked) == before


def test_patterns_that_match_no_more_are_named_by_script_and_line(forked: Toy) -> None:
    body = '    ck.reshape("head.weight", (4, 3))\n'
    forked.script(5, "more", body, revision=MORE, revises=RIGHT)
    before = texts(forked)
    ran = forked.run("rebase", "--onto", "left")
    assert ran.code == 3
    assert "error[CKM332]" in ran.err
    lines = (forked.root / "migrations" / "0005_more.py").read_text().splitlines()
    number = lines.index(body.rstrip()) + 1
    assert f"0005_more.py, line {number}: reshape: 'head.weight' matches nothing" in ran.err
    assert "0006_more.py" not in ran.err
    assert texts(forked) == before


def test_a_draft_is_moved_without_having_been_tried(forked: Toy) -> None:
    forked.script(5, "more", '    ck.todo("finish")\n', revision=MORE, revises=RIGHT)
    ran = forked.run("rebase", "--onto", "left")
    assert ran.code == 0
    assert "not tried from" in ran.err


def test_released_scripts_stay_and_the_other_way_works(forked: Toy) -> None:
    toy = forked
    path = toy.root / "migrations" / "0005_more.py"
    path.write_text(path.read_text().replace("api = 1", 'api = 1\nrelease = "1.4"'))
    before = texts(toy)
    ran = toy.run("rebase", "--onto", "left")
    assert (ran.code, "error[CKM333]" in ran.err) == (3, True)
    assert texts(toy) == before
    assert toy.run("rebase", "--onto", MORE).code == 0


def test_an_edit_of_a_released_script_is_not_recorded_along(forked: Toy) -> None:
    path = forked.root / "migrations" / "0001_call_it_encoder.py"
    path.write_text(path.read_text().replace('"body.**"', '"body.{rest:**}"'))
    path.write_text(path.read_text().replace("encoder.**", "encoder.{rest}"))
    body = path.read_text() + '    ck.init("new", shape=(1,))\n'
    path.write_text(body)
    before = texts(forked)
    ran = forked.run("rebase", "--onto", "left")
    assert (ran.code, "error[CKM325]" in ran.err) == (3, True)
    assert texts(forked) == before


def test_a_conflict_in_the_lock_is_left_to_rebase(forked: Toy) -> None:
    """Also where the history has one head, and nothing has to be moved."""
    path = forked.root / "migrations" / "history.lock"
    whole = path.read_bytes()
    line = whole.splitlines()[-1]
    marked = b"<<<<<<< HEAD\n" + line + b"\n=======\n>>>>>>> main"
    for arguments in (["merge"], ["rebase"]):
        path.write_bytes(path.read_bytes().replace(line, marked))
        conflicted = path.read_bytes()
        assert forked.run("lock").code == 3
        assert path.read_bytes() == conflicted
        assert forked.run(*arguments).code == 0
        assert b"<<<" not in path.read_bytes()
        assert forked.run("lock", "--check").code == 0


def test_a_project_without_a_lock_gets_none(forked: Toy) -> None:
    lock = forked.root / "migrations" / "history.lock"
    lock.unlink()
    assert forked.run("rebase", "--onto", "left").code == 0
    assert not lock.exists()


def test_a_script_that_git_could_not_merge_is_named(forked: Toy) -> None:
    path = forked.root / "migrations" / "0004_left.py"
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    ran = forked.run("rebase", "--onto", RIGHT)
    assert ran.code == 3
    assert "git left its conflict markers in it" in ran.err


def test_line_ends_and_comments_survive(forked: Toy) -> None:
    path = forked.root / "migrations" / "0004_right.py"
    path.write_bytes(
        path.read_bytes().replace(b"api = 1", b"api = 1  # \xc3\xa4").replace(b"\n", b"\r\n")
    )
    assert forked.run("rebase", "--onto", "left").code == 0
    data = (forked.root / "migrations" / "0005_right.py").read_bytes()
    assert b"# \xc3\xa4\r\n" in data
    assert data.count(b"\n") == data.count(b"\r\n")


def test_without_onto_the_heads_are_listed(forked: Toy) -> None:
    ran = forked.run("rebase")
    assert (ran.code, ran.out) == (2, "")
    assert "error[CKM244]" in ran.err
    assert f"--onto {LEFT}" in ran.err


def test_files_stay_as_they_are_where_one_cannot_be_written(forked: Toy, tmp_path: Path) -> None:
    folder = forked.root / "migrations" / "schema"
    (folder / "default.json").unlink(missing_ok=True)
    (folder / "default.json").mkdir()
    before = texts(forked)
    ran = forked.run("rebase", "--onto", "left")
    assert ran.code == 7
    assert "as it was" in ran.err
    assert texts(forked) == before
