"""`--in-place --fast` and `ckmigrate undo`, as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.execute.undo import pending_path
from tests.cli_inside import InsideToy
from tests.cli_project import Toy, make_toy, slowed


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return InsideToy(make_toy(tmp_path / "toy", scripts=2).root, monkeypatch)


FAST = ("--in-place", "--fast", "--no-model")
KILL = """
import os, signal
left = [{at}]
def kill(name, arguments):
    if name == "pwrite" and not str(arguments[0]).endswith(".lock"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
syscalls.before = kill
"""


def test_an_upgrade_in_place_says_how_to_take_it_back(toy: Toy) -> None:
    old = toy.checkpoint()
    before = old.read_bytes()
    ran = toy.run("upgrade", old.name, *FAST)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("changed in place old.safetensors: base → ")
    assert "`ckmigrate undo old.safetensors` takes it back, by old.safetensors.undo-base" in ran.out
    assert "by tag" in toy.run("current", old.name).out
    record = toy.run("current", "old.safetensors.undo-base")
    assert record.code == 7
    assert "undo record of a change in place, which made old.safetensors what it is" in record.err
    assert record.err.rstrip().endswith("ckmigrate undo old.safetensors")
    undone = toy.run("undo", old.name)
    assert undone.code == 0
    assert undone.out == (
        "rolled back old.safetensors: the last change in place; it is at base again\n"
    )
    assert old.read_bytes() == before
    assert not list(toy.root.glob("*undo*"))


def test_json_tells_that_it_was_fast_and_what_was_undone(toy: Toy) -> None:
    old = toy.checkpoint()
    (result,) = toy.run("upgrade", old.name, *FAST, "--json").json["results"]
    assert result["fast"] is True
    assert result["spare_bytes"] == 0
    assert result["backup"].endswith("old.safetensors.undo-base")
    (result,) = toy.run("undo", old.name, "--json").json["results"]
    assert result["ok"]
    assert result["revision"] == "base"
    assert result["was_complete"] is True


def test_downgrade_and_stamp_are_fast_too(toy: Toy) -> None:
    old = toy.checkpoint()
    assert toy.run("stamp", old.name, "base", *FAST).code == 0
    assert toy.run("upgrade", old.name, *FAST, "--no-backup").code == 0
    assert toy.run("downgrade", old.name, "--to", "1", *FAST).code == 0
    assert "a1a1a1a1a1" in toy.run("current", old.name).out
    again = toy.run("downgrade", old.name, "--to", "1", *FAST)
    assert again.code == 0
    assert "not touched" in again.out


def test_with_a_model_the_result_is_loaded_strictly(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    old = toy.checkpoint()
    refused = toy.run("upgrade", old.name, "--in-place", "--fast")
    assert refused.code == 5
    assert "1 entry leaves bytes behind" in refused.err
    assert toy.run("upgrade", old.name, "-o", "old.pt", "--to", "2").code == 0
    ran = toy.run("upgrade", "old.pt", "--in-place", "--fast")
    assert ran.code == 0, ran.err
    assert "verified by a strict load" in ran.out
    assert "4 bytes of dropped tensors stay" in ran.out


@pytest.mark.parametrize(
    "arguments", [("-o", "x.safetensors", "--fast"), ("--out-dir", "d", "--fast")]
)
def test_fast_goes_with_in_place_only(toy: Toy, arguments: tuple[str, ...]) -> None:
    toy.checkpoint()
    ran = toy.run("upgrade", "old.safetensors", *arguments)
    assert ran.code == 2
    assert "CKM233" in ran.err


def test_the_plan_tells_whether_it_can_be_fast(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    old = toy.checkpoint()
    assert "  fast        no: 1 entry leaves bytes behind" in toy.run("plan", old.name).out
    assert "  fast        yes: " in toy.run("plan", old.name, "--to", "2").out
    (result,) = toy.run("plan", old.name, "--json").json["results"]
    assert result["fast"]["possible"] is False
    assert "old.counter" in result["fast"]["obstacles"][0]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_after_a_kill_everybody_who_reads_is_told_and_the_next_run_rolls_back(
    toy: Toy, suffix: str
) -> None:
    first = toy.checkpoint()
    assert toy.run("stamp", first.name, "base", "-o", f"old.{suffix}", "--overwrite").code in (0, 7)
    old = toy.root / f"old.{suffix}"
    before = old.read_bytes()
    # The lock, the record, then the file.
    killed = toy.run("upgrade", old.name, *FAST, env=slowed(toy.root / "kill", KILL.format(at=2)))
    assert killed.code == -9
    assert pending_path(old).exists()
    for verb in ("current", "identify", "inspect", "plan", "verify"):
        ran = toy.run(verb, old.name, *(["--no-model"] if verb == "verify" else []))
        assert ran.code == 7, verb
        assert "CKM773" in ran.err
        assert f"ckmigrate undo {old}" in ran.err
    assert toy.run("diff", old.name, "base").code == 7
    assert toy.run("upgrade", old.name, "-o", "other.pt", "--no-model").code == 7
    ran = toy.run("upgrade", old.name, *FAST)
    assert ran.code == 0, ran.err
    assert "a change in place that was cut off" in ran.err
    assert toy.run("undo", old.name).code == 0
    assert old.read_bytes() == before


def test_undo_rolls_back_what_was_cut_off(toy: Toy) -> None:
    old = toy.checkpoint()
    before = old.read_bytes()
    toy.run("upgrade", old.name, *FAST, env=slowed(toy.root / "kill", KILL.format(at=2)))
    ran = toy.run("undo", old.name)
    assert ran.code == 0
    assert "cut off" in ran.out
    assert old.read_bytes() == before
    again = toy.run("undo", old.name)
    assert again.code == 7
    assert "CKM778" in again.err


def test_undo_of_what_does_not_exist_is_an_error(toy: Toy) -> None:
    assert "CKM706" in toy.run("undo", "nowhere.pt").err


def test_no_name_is_cut_in_what_plan_says_about_it(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    name = "old.a_module_with_a_rather_long_name.and_another_one_inside_of_it.weight"
    path = toy.checkpoint("old.safetensors", **{name: (4,)})
    lines = toy.run("plan", path, "--from", "base").out.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("  fast  "))
    end = next(at for at, line in enumerate(lines) if line.startswith("  compared  "))
    told = " ".join(line.strip() for line in lines[begin:end])
    assert told.startswith("fast        no: ")
    assert "…" not in told
    assert end - begin > 1
    assert all(len(line) <= 80 or " " not in line.strip() for line in lines[begin:end])


def test_commands_in_messages_can_be_pasted(toy: Toy) -> None:
    old = toy.checkpoint().rename(toy.root / "my model.safetensors")
    ran = toy.run("upgrade", old.name, *FAST)
    assert "`ckmigrate undo 'my model.safetensors'` takes it back" in ran.out
    record = toy.run("current", "my model.safetensors.undo-base")
    assert record.err.rstrip().endswith("ckmigrate undo 'my model.safetensors'")
    pending_path(old).touch()
    ran = toy.run("current", old.name)
    assert f"ckmigrate undo '{old}'" in ran.err
    ran = toy.run("upgrade", toy.checkpoint().name, "-o", "a b/new.pt", "--no-model")
    assert f"(mkdir -p '{toy.root}/a b')" in ran.err
