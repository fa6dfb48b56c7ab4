"""history, heads, show, current, identify, inspect, diff: the real command on real files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ckmigrate.revisions.lock import Lock, LockLine, render_lock
from tests.cli_inside import InsideToy
from tests.cli_project import BASE, IDS, ROOT, Toy, make_toy, safetensors

DIGITS = ROOT / "examples" / "digits" / "checkpoints" / "digits-1.0.pt"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy").root, monkeypatch)


def test_history_lists_newest_first_and_marks_the_head(toy: Toy) -> None:
    ran = toy.run("history")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == list(reversed(IDS))
    assert lines[0].endswith("(head)")
    assert "[1.1]" in lines[2]


def test_history_draws_the_lanes_of_branches(toy: Toy) -> None:
    toy.script(4, "left", "", revision="d4d4d4d4d4", revises=IDS[1])
    toy.script(5, "join", "", revision="e5e5e5e5e5", revises=(IDS[2], "d4d4d4d4d4"))
    lines = toy.run("history", "--graph").out.splitlines()
    drawn = ["*", "|\\", "| *", "* |", "|/", "*", "*", "o"]
    assert [re.split("  |$", line, maxsplit=1)[0] for line in lines] == drawn
    assert "(head, merge)" in lines[0]
    assert "(branches)" in lines[5]
    assert lines[-1] == "o  base"


def test_history_in_json_has_every_literal(toy: Toy) -> None:
    found = toy.run("history", "--json").json
    assert (found["ok"], found["command"], found["exit_code"]) == (True, "history", 0)
    newest = found["revisions"][0]
    assert newest["revision"] == IDS[2]
    assert newest["revises"] == [IDS[1]]
    assert newest["is_head"] is True


def test_history_of_no_scripts_says_so(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", scripts=0)
    assert toy.run("history").out == "base: there are no revisions yet\n"
    assert toy.run("heads").out == "base: there are no revisions yet\n"


def test_heads_lists_all_of_a_fork(toy: Toy) -> None:
    toy.script(4, "left", "", revision="d4d4d4d4d4", revises=IDS[1])
    ran = toy.run("heads")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"{IDS[2]} (0003_scale_the_head) [1.3]  Do scale_the_head.",
        "  adds 0003_scale_the_head [1.3]",
        "d4d4d4d4d4 (0004_left)  Do left.",
        "  adds 0004_left",
        f"they part after {IDS[1]} (0002_split_qkv)",
    ]


def test_show_tells_neighbours_and_text(toy: Toy) -> None:
    ran = toy.run("show", "split_qkv")
    assert ran.code == 0
    assert "derived from its operations" in ran.out
    assert IDS[0] in ran.out
    assert IDS[2] in ran.out
    assert "on snapshot 'default': 5 → 9 entries" in ran.out
    assert "split       encoder.layers.{0,1}.qkv.weight [12,4]" in ran.out
    assert "→ encoder.layers.{0,1}.{q,k,v}.weight [4,4]" in ran.out
    assert "×2" in ran.out
    assert "ck.split(" not in ran.out
    assert "ck.split(" in toy.run("show", "split_qkv", "--source").out


def test_show_says_why_there_is_no_way_back(toy: Toy) -> None:
    ran = toy.run("show", "head")
    assert ", drop: " in ran.out
    data = toy.run("show", "head", "--json").json
    assert data["reversible"] is False
    assert data["effects"][0]["entries_after"] == 9
    assert [change["operation"] for change in data["effects"][0]["changes"]] == ["init", "drop"]


def test_show_of_what_cannot_be_replayed_says_so(toy: Toy) -> None:
    toy.script(4, "later", '    ck.rename("gone.*", "there.*")\n')
    toy.script(5, "last", "", revises="00000004ee")
    assert "on snapshot 'default': not known: 0004_later.py, line" in toy.run("show", "4").out
    ran = toy.run("show", "last")
    assert ran.code == 0
    assert "0004_later.py) comes before it, and cannot be replayed" in ran.out
    assert "way back:   not known" in ran.out


def test_show_tells_what_the_lock_records(toy: Toy) -> None:
    line = LockLine(IDS[1], "2:00aa00aa00aa00aa", "1:00bb00bb00bb00bb", "split_qkv")
    lock = toy.root / "migrations" / "history.lock"
    lock.write_text(render_lock(Lock((line,))))
    ran = toy.run("show", "split_qkv")
    assert "digest:     2:00aa00aa00aa00aa" in ran.out
    assert "signature:  1:00bb00bb00bb00bb" in ran.out
    lock.write_text("<<<<<<< HEAD\n")
    ran = toy.run("show", "split_qkv")
    assert (ran.code, "digest" in ran.out) == (0, False)
    assert "warning: " in ran.err


def test_show_of_the_base_is_a_usage_error(toy: Toy) -> None:
    ran = toy.run("show", "base")
    assert (ran.code, ran.out) == (2, "")
    assert "error[CKM235]" in ran.err


def test_current_recognises_an_untagged_file_by_its_tensors(toy: Toy) -> None:
    ran = toy.run("current", toy.checkpoint())
    assert ran.code == 0
    assert "base — by names and shapes" in ran.out
    assert "3 migrations behind" in ran.out


def test_current_goes_on_after_a_failure_and_keeps_its_exit_code(toy: Toy) -> None:
    ran = toy.run("current", "nothing.pt", toy.checkpoint().name, "--json")
    assert ran.code == 7
    found = ran.json
    assert [result["ok"] for result in found["results"]] == [False, True]
    assert found["error"]["code"] == found["results"][0]["error"]["code"] == "CKM706"
    assert found["results"][1]["revision"] is None


def test_current_of_foreign_tensors_exits_4(toy: Toy) -> None:
    (toy.root / "odd.safetensors").write_bytes(safetensors({"alien": (2,)}))
    ran = toy.run("current", "odd.safetensors")
    assert (ran.code, ran.out) == (4, "")
    assert "fix:" in ran.err


def test_identify_puts_tag_and_tensors_side_by_side(toy: Toy) -> None:
    ran = toy.run("identify", toy.checkpoint())
    assert ran.code == 0
    assert "tag:     the file has none" in ran.out
    assert "tensors: base" in ran.out


def test_identify_exits_1_where_the_tensors_contradict_the_tag(toy: Toy) -> None:
    tag = {
        "format": 1,
        "project": "toy",
        "revision": IDS[1],
        "name": "split_qkv",
        "release": None,
        "writer": "ckmigrate 0",
        "history": [],
        "origin": {},
        "origin_revision": None,
    }
    path = toy.root / "lie.safetensors"
    path.write_bytes(safetensors(BASE, {"ckmigrate": json.dumps(tag)}))
    ran = toy.run("identify", path, "--json")
    assert ran.code == 1
    result = ran.json["results"][0]
    assert result["contradiction"] is True
    assert result["verdicts"]["tag"]["revisions"][0]["revision"] == IDS[1]
    assert result["verdicts"]["tensors"]["revisions"][0]["revision"] is None


def test_a_tag_of_an_unknown_revision_names_who_wrote_it(toy: Toy) -> None:
    new = toy.root / "new.safetensors"
    assert toy.run("upgrade", toy.checkpoint(), "-o", new, "--no-model").code == 0
    (toy.root / "migrations" / "0003_scale_the_head.py").unlink()
    ran = toy.run("current", new)
    assert ran.code == 4
    assert "error[CKM411]" in ran.err
    assert "written by ckmigrate" in ran.err


def test_inspect_needs_no_project_and_folds(tmp_path: Path, toy: Toy) -> None:
    path = toy.checkpoint()
    ran = toy.run("inspect", path, cwd=tmp_path)
    assert ran.code == 0
    assert "body.layers.{0,1}.qkv.weight  [12,4]" in ran.out
    assert "tag:      none" in ran.out
    assert "body.layers.1.qkv.weight" in toy.run("inspect", path, "--unfold").out


def test_inspect_in_json_lists_every_tensor(toy: Toy) -> None:
    found = toy.run("--json", "inspect", toy.checkpoint()).json
    assert [entry["name"] for entry in found["entries"]] == list(BASE)
    assert found["entries"][0] == {
        "name": "body.layers.0.qkv.weight",
        "dtype": "float32",
        "shape": [12, 4],
        "bytes": 192,
    }


def test_inspect_reads_a_torch_file(tmp_path: Path, toy: Toy) -> None:
    copy = tmp_path / "copy.pt"
    shutil.copy(DIGITS, copy)
    ran = toy.run("inspect", copy, cwd=tmp_path)
    assert ran.code == 0
    assert "weights:  at state_dict" in ran.out


def test_what_a_file_says_cannot_command_the_terminal(toy: Toy) -> None:
    names = {"a\x1b[31mred": (1,), "b\u202ereversed": (1,), "c\nnew line": (1,)}
    path = toy.root / "evil\x1b[2J.safetensors"
    path.write_bytes(safetensors(names, {"note\x07": "\x1b]0;title\x07"}))
    for arguments in (["inspect", path], ["current", path], ["diff", path, "base"]):
        ran = toy.run(*arguments)
        shown = ran.out + ran.err
        assert not set(shown) & {"\x1b", "\x07", "\u202e", "\r"}
        assert "\\x1b[31mred" in toy.run("inspect", path).out


def test_what_a_script_says_cannot_either(toy: Toy) -> None:
    script = toy.script(4, "evil", "", revision="d4d4d4d4d4")
    script.write_text(script.read_text().replace("Do evil", "Do \\x1b[2J evil"))
    for arguments in (["heads"], ["history"], ["show", "head"]):
        ran = toy.run(*arguments)
        assert "\\x1b[2J" in ran.out
        assert "\x1b" not in ran.out


def test_a_folder_is_called_by_what_was_typed(toy: Toy) -> None:
    assert "error[CKM707]: . is a folder" in toy.run("current", ".").err


def test_diff_of_a_file_and_a_revision(toy: Toy) -> None:
    path = toy.checkpoint()
    same = toy.run("diff", path, "base")
    assert (same.code, same.err) == (0, "")
    assert "no difference: 5 entries" in same.out
    other = toy.run("diff", path, "head", "--json")
    assert other.code == 1
    assert other.json["same"] is False
    assert "error" not in other.json
    assert "scale" in [entry["name"] for entry in other.json["only_in_second"]]


def test_diff_shows_changed_shapes(toy: Toy) -> None:
    changed = toy.checkpoint("wide.safetensors", **{"head.weight": (5, 4)})
    ran = toy.run("diff", "base", changed)
    assert ran.code == 1
    assert "~ head.weight  [3,4] float32 → [5,4] float32" in ran.out


def test_diff_of_an_unknown_word_says_that_it_is_no_file_either(toy: Toy) -> None:
    ran = toy.run("diff", "base", "nonsense")
    assert ran.code == 4
    assert "no file either" in ran.err


def test_global_options_work_before_and_after_the_verb(toy: Toy, tmp_path: Path) -> None:
    config = toy.root / "ckmigrate.toml"
    for arguments in (["--config", config, "heads"], ["heads", "--config", config]):
        ran = toy.run(*arguments, cwd=tmp_path)
        assert ran.code == 0
        assert IDS[2] in ran.out
    assert toy.run("heads", cwd=tmp_path).code == 2


def test_colours_only_on_request(toy: Toy) -> None:
    assert "\x1b[31;1merror" in toy.run("show", "nope", "--color", "always").err
    assert "\x1b" not in toy.run("show", "nope").err
    assert "\x1b" not in toy.run("show", "nope", "--color", "never").err


def test_a_batch_ends_with_the_code_of_its_first_failure(toy: Toy) -> None:
    (toy.root / "odd.safetensors").write_bytes(safetensors({"alien": (2,)}))
    assert toy.run("current", "odd.safetensors", "nothing.pt").code == 4
    assert toy.run("current", "nothing.pt", "odd.safetensors").code == 7
