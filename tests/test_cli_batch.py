"""Many checkpoints in one run: what is tried, what is written, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli_project import IDS, Toy, safetensors, slowed

JOBS = pytest.mark.parametrize("jobs", [1, 2])


@pytest.fixture
def runs(toy: Toy) -> Path:
    """a: old; b: a page of HTML; c: of no revision; d: current; e: a folder of shards, old."""
    root = toy.root / "runs"
    for name in "abcd":
        (root / name).mkdir(parents=True)
    toy.checkpoint("runs/a/last.safetensors")
    (root / "b" / "last.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    (root / "c" / "last.safetensors").write_bytes(safetensors({"other": (2,)}))
    made = root / "d" / "last.safetensors"
    toy.run("upgrade", "runs/a/last.safetensors", "-o", made, "--no-model")
    (root / "e").mkdir()
    toy.checkpoint("runs/e/model.safetensors")
    return root


def digests(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def outcomes(document: dict[str, Any]) -> list[str]:
    return [result["outcome"] for result in document["results"]]


def test_after_a_failure_nothing_more_is_begun(toy: Toy, runs: Path) -> None:
    ran = toy.run("upgrade", "runs/", "--out-dir", "out", "--no-model", "--json")
    assert ran.code == 7
    assert outcomes(ran.json) == ["written", "failed", "not tried", "not tried", "not tried"]
    assert [result["exit_code"] for result in ran.json["results"]] == [0, 7, None, None, None]
    assert ran.json["error"]["code"] == "CKM709"
    assert list(digests(toy.root / "out")) == ["a/last.safetensors"]


@JOBS
def test_keep_going_tries_all_and_reports_them_in_their_order(
    toy: Toy, runs: Path, jobs: int
) -> None:
    before = digests(runs)
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model", "--keep-going", "--json"]
    ran = toy.run(*arguments, "--jobs", jobs)
    assert ran.code == 7
    found = ran.json
    assert outcomes(found) == ["written", "failed", "failed", "current", "written"]
    assert [result["exit_code"] for result in found["results"]] == [0, 7, 4, 0, 0]
    assert [Path(result["path"]).parts[1] for result in found["results"]] == list("abcde")
    counts = {"written": 2, "current": 1, "failed": 2, "not_tried": 0, "interrupted": 0}
    assert {key: found["summary"][key] for key in counts} == counts
    assert found["summary"]["checkpoints"] == 5
    assert found["summary"]["bytes"] == sum(result.get("bytes", 0) for result in found["results"])
    assert list(digests(toy.root / "out")) == ["a/last.safetensors", "e/model.safetensors"]
    assert digests(runs) == before


def test_the_bytes_do_not_depend_on_the_number_of_processes(toy: Toy, runs: Path) -> None:
    for jobs in (1, 2, 3):
        out = toy.root / f"out{jobs}"
        toy.run("upgrade", "runs", "--out-dir", out, "--no-model", "--keep-going", "--jobs", jobs)
    first = digests(toy.root / "out1")
    assert len(first) == 2
    assert digests(toy.root / "out2") == digests(toy.root / "out3") == first


@JOBS
def test_the_summary_counts_and_lists_what_failed(toy: Toy, runs: Path, jobs: int) -> None:
    ran = toy.run(
        "upgrade", "runs", "--out-dir", "out", "--no-model", "--keep-going", "--jobs", jobs
    )
    answer, _, summary = ran.out.partition("\n\n")
    assert len(answer.splitlines()) == 3
    head, *rows = summary.splitlines()
    assert head.startswith("5 checkpoints, ")
    assert [row.split()[:2] for row in rows[:3]] == [
        ["upgraded", "2"],
        ["already", "current"],
        ["failed", "2"],
    ]
    assert rows[3].startswith("failed runs/b/last.safetensors: ")
    assert rows[3].endswith("[CKM709]")
    assert rows[4].startswith("failed runs/c/last.safetensors: ")
    assert ran.err.count("error[") == 2


def test_one_checkpoint_has_no_summary(toy: Toy) -> None:
    ran = toy.run("upgrade", toy.checkpoint(), "-o", "new.safetensors", "--no-model")
    assert len(ran.out.splitlines()) == 1


@JOBS
def test_json_lines_are_one_object_each_and_a_last_one(toy: Toy, runs: Path, jobs: int) -> None:
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model", "--json-lines"]
    ran = toy.run(*arguments, "--keep-going", "--jobs", jobs)
    *results, last = [json.loads(line) for line in ran.out.splitlines()]
    assert {line["type"] for line in results} == {"result"}
    assert sorted(line["path"] for line in results) == [
        *(f"runs/{name}/last.safetensors" for name in "abcd"),
        "runs/e",
    ]
    assert (last["type"], last["ok"], last["exit_code"]) == ("summary", False, 7)
    assert last["summary"]["failed"] == 2
    assert "results" not in last


def test_json_lines_are_valid_where_nothing_was_begun(toy: Toy) -> None:
    ran = toy.run("upgrade", "nothing/", "--json-lines")
    assert (ran.code, len(ran.out.splitlines())) == (2, 1)
    assert json.loads(ran.out)["error"]["code"] == "CKM230"
    ran = toy.run("history", "--json-lines")
    assert json.loads(ran.out)["type"] == "summary"


def test_what_is_current_is_skipped_in_place_and_in_a_batch(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    for name in ("one", "two"):
        toy.checkpoint(f"runs/{name}.safetensors")
    toy.run("upgrade", "runs", "--in-place", "--no-model")
    before = digests(toy.root / "runs")
    again = toy.run("upgrade", "runs", "--in-place", "--no-model", "--json")
    assert outcomes(again.json) == ["current", "current"]
    assert again.json["skipped"] == {"backups": 2}
    assert "passed over: 2 backups" in again.err
    copied = toy.run("upgrade", "runs", "--out-dir", "out", "--no-model", "--json")
    assert (copied.code, outcomes(copied.json)) == (0, ["current", "current"])
    assert not (toy.root / "out").exists()
    wanted = toy.run("upgrade", "runs", "--out-dir", "out", "--no-model", "--copy-current")
    assert wanted.code == 0
    assert len(digests(toy.root / "out")) == 2
    alone = toy.run("upgrade", "runs/one.safetensors", "--out-dir", "alone", "--no-model")
    assert alone.out.startswith("wrote alone/one.safetensors")
    assert digests(toy.root / "runs") == before


def test_results_of_an_earlier_run_are_no_sources(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    toy.checkpoint("runs/one.safetensors")
    for _ in range(2):
        arguments = ["upgrade", "runs", "--out-dir", "runs/new", "--overwrite", "--no-model"]
        ran = toy.run(*arguments, "--json")
        assert [result["path"] for result in ran.json["results"]] == ["runs/one.safetensors"]
    assert list(digests(toy.root / "runs" / "new")) == ["one.safetensors"]


def test_downgrade_and_stamp_take_many_too(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    for name in ("one", "two"):
        toy.checkpoint(f"runs/{name}.safetensors")
    up = toy.run("upgrade", "runs/*", "--in-place", "--to", "2", "--no-backup", "--jobs", "2")
    assert "upgraded  2" in up.out
    down = toy.run("downgrade", "runs/*", "--in-place", "--to", "1", "--no-backup", "--jobs", "2")
    assert (down.code, "downgraded  2" in down.out) == (0, True)
    stamped = toy.run("stamp", "runs/*", "1", "--in-place", "--jobs", "2")
    assert (stamped.code, "already stamped  2" in stamped.out) == (0, True)


def test_reading_verbs_search_and_go_on_after_a_failure(toy: Toy, runs: Path) -> None:
    for verb in ("current", "plan", "identify", "verify"):
        arguments = [verb, "runs", *(["--no-model"] if verb == "verify" else []), "--json"]
        found = toy.run(*arguments).json["results"]
        assert [Path(result["path"]).parts[1] for result in found] == list("abcde"), verb
        assert [result["ok"] for result in found] == [True, False, False, True, True], verb
    lines = toy.run("current", "runs", "--json-lines").out.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["result"] * 5 + ["summary"]


def test_inspect_takes_a_folder_of_one_checkpoint(toy: Toy, runs: Path) -> None:
    assert toy.run("inspect", "runs/a").out.startswith("runs/a/last.safetensors\n")
    ran = toy.run("inspect", "runs")
    assert (ran.code, "error[CKM243]" in ran.err) == (2, True)


def test_one_process_is_enough_for_one_checkpoint_and_for_one_job(toy: Toy, tmp_path: Path) -> None:
    env = slowed(tmp_path / "site", "import subprocess\nsubprocess.Popen = None")
    path = toy.checkpoint()
    one = ["upgrade", path, "-o", "one.safetensors", "--no-model", "--jobs", "4"]
    assert toy.run(*one, env=env).code == 0
    other = toy.checkpoint("other.safetensors")
    two = ["upgrade", path, other, "--out-dir", "out", "--no-model"]
    assert toy.run(*two, env=env).code == 0
    assert toy.run(*two, "--overwrite", "--jobs", "2", env=env).code == 5


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5", "²"])
def test_jobs_are_a_number_or_auto(toy: Toy, jobs: str) -> None:
    ran = toy.run("upgrade", toy.checkpoint(), "--in-place", "--no-model", f"--jobs={jobs}")
    assert (ran.code, "error[CKM200]" in ran.err) == (2, True)
    assert (
        toy.run("upgrade", "old.safetensors", "-o", "x.pt", "--no-model", "--jobs=auto").code == 0
    )


def test_paths_that_would_meet_are_refused_with_a_way_out(toy: Toy) -> None:
    for name in "ab":
        (toy.root / name).mkdir()
        toy.checkpoint(f"{name}/last.safetensors")
    paths = ["a/last.safetensors", "b/last.safetensors"]
    ran = toy.run("upgrade", *paths, "--out-dir", "out", "--no-model")
    assert (ran.code, "in quotes" in ran.err) == (2, True)
    assert toy.run("upgrade", "?/last.*", "--out-dir", "out", "--no-model").code == 0
    assert list(digests(toy.root / "out")) == paths


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["upgrade", "old.safetensors", "head"], "ckmigrate upgrade old.safetensors --to head"),
        (["plan", "old.safetensors", "split_qkv"], "plan old.safetensors --to split_qkv"),
        (["stamp", "base", "old.safetensors"], "ckmigrate stamp old.safetensors base"),
        (["current", "head"], "ckmigrate show head"),
    ],
)
def test_a_revision_among_the_paths_is_explained(
    toy: Toy, arguments: list[str], words: str
) -> None:
    toy.checkpoint()
    ran = toy.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "error[CKM242]" in ran.err
    assert words in ran.err


def test_a_release_names_its_revision(toy: Toy) -> None:
    path = toy.checkpoint()
    ran = toy.run("upgrade", path, "-o", "new.safetensors", "--to", "1.1", "--json")
    assert ran.json["results"][0]["to"]["revision"] == IDS[0]
    assert toy.run("show", "v1.3.0").code == 0
    assert toy.run("show", "1.2").code == 4


def test_a_config_may_be_the_folder_that_it_is_in(toy: Toy) -> None:
    path = toy.checkpoint()
    ran = toy.run("--config", toy.root, "current", path, cwd=toy.root.parent)
    assert ran.code == 0
    ran = toy.run("--config", toy.root / "migrations", "current", path)
    assert (ran.code, "error[CKM201]" in ran.err) == (2, True)


def test_two_hundred_small_checkpoints(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    for number in range(200):
        toy.checkpoint(f"runs/step-{number}.safetensors")
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model", "--jobs", "2", "--json"]
    found = toy.run(*arguments).json
    assert found["summary"]["written"] == 200
    steps = [int(Path(result["path"]).stem.split("-")[1]) for result in found["results"]]
    assert steps == list(range(200))
    assert len(set(digests(toy.root / "out").values())) == 1


def test_a_dry_run_looks_at_what_the_run_would_take(toy: Toy, runs: Path) -> None:
    (runs / "a" / "best.safetensors").symlink_to("last.safetensors")
    dry = toy.run("upgrade", "runs/a", "--in-place", "--dry-run", "--no-model", "--json").json
    assert [result["path"] for result in dry["results"]] == ["runs/a/last.safetensors"]
    wet = toy.run("upgrade", "runs/a", "--in-place", "--no-model", "--json").json
    assert [result["path"] for result in wet["results"]] == ["runs/a/last.safetensors"]
    assert wet["skipped"] == {"second_names": 1}


@JOBS
def test_a_batch_that_is_repeated_finds_its_results(toy: Toy, runs: Path, jobs: int) -> None:
    (runs / "b" / "last.safetensors").unlink()
    (runs / "c" / "last.safetensors").unlink()
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model", "--jobs", jobs]
    assert toy.run(*arguments).code == 0
    before = digests(toy.root / "out")
    again = toy.run(*arguments, "--json")
    assert (again.code, outcomes(again.json)) == (0, ["done", "current", "done"])
    assert (again.json["summary"]["done"], again.json["summary"]["written"]) == (2, 0)
    assert again.json["results"][0]["output"] == "out/a/last.safetensors"
    assert digests(toy.root / "out") == before
    assert "already done" in toy.run(*arguments).out
    assert outcomes(toy.run(*arguments, "--overwrite", "--json").json)[0] == "written"


def test_a_result_of_another_source_or_revision_is_no_result(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    path = toy.checkpoint("runs/one.safetensors")
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model"]
    assert toy.run(*arguments, "--to", "2").code == 0
    result = toy.root / "out" / "one.safetensors"
    whole = result.read_bytes()
    assert "error[CKM751]" in toy.run(*arguments).err
    assert toy.run(*arguments, "--to", "2").code == 0
    path.touch()
    assert "error[CKM751]" in toy.run(*arguments, "--to", "2").err
    result.write_bytes(whole[:-1])
    assert "error[CKM751]" in toy.run(*arguments, "--to", "2").err
    assert result.read_bytes() == whole[:-1]
    # One file that is named is always written, so that its result must not be there.
    result.write_bytes(whole)
    one = ["upgrade", "runs/one.safetensors", "--out-dir", "out", "--no-model", "--to", "2"]
    assert "error[CKM751]" in toy.run(*one).err


def test_stamped_results_are_found_too(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    toy.checkpoint("runs/one.safetensors")
    arguments = ["stamp", "runs", "base", "--out-dir", "out", "--no-model", "--json"]
    assert outcomes(toy.run(*arguments).json) == ["written"]
    assert outcomes(toy.run(*arguments).json) == ["done"]


def test_copies_of_what_is_current_do_not_count_as_upgraded(toy: Toy, runs: Path) -> None:
    (runs / "b" / "last.safetensors").unlink()
    (runs / "c" / "last.safetensors").unlink()
    arguments = ["upgrade", "runs", "--out-dir", "out", "--no-model", "--copy-current"]
    ran = toy.run(*arguments, "--json")
    assert outcomes(ran.json) == ["written", "copied", "written"]
    assert (ran.json["summary"]["written"], ran.json["summary"]["copied"]) == (2, 1)
    assert sorted(digests(toy.root / "out"))[1] == "d/last.safetensors"


def test_verify_of_many_ends_with_a_table(toy: Toy, runs: Path) -> None:
    ran = toy.run("verify", "runs", "--no-model")
    rows = ran.out.partition("\n\n")[2].splitlines()
    assert rows[0].startswith("5 checkpoints, ")
    assert [row.split()[:2] for row in rows[1:3]] == [["verified", "3"], ["failed", "2"]]
    assert len(rows) == 5
    counts = toy.run("verify", "runs", "--no-model", "--json").json["summary"]
    assert (counts["verified"], counts["failed"]) == (3, 2)
    assert len(toy.run("verify", "runs/d", "runs/e", "--no-model", "-q").out.splitlines()) == 5
    one = toy.run("verify", "runs/d/last.safetensors", "--no-model")
    assert len(one.out.splitlines()) == 1
