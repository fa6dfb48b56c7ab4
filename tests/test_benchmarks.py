"""The benchmarks still run: no timing is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.chains import Chain, Change, write_project
from benchmarks.inputs import Input
from benchmarks.measure import Row, Skipped, measure
from benchmarks.process import Failed, Run, run
from benchmarks.report import table_line
from benchmarks.scenarios import Contender, Limit, Scenario, scenarios
from ckmigrate.revisions.graph import read_history

GB = 10**9
ABSENT = ("is not installed", "has no --")
"""What a row may say instead of figures: an optional package, an option of a later version."""


def measured(folder: Path, *arguments: str) -> list[dict[str, object]]:
    page = folder / "page.md"
    assert main(["--quick", "--folder", str(folder), "--output", str(page), *arguments]) == 0
    assert page.read_text(encoding="utf-8").startswith("# Results\n")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []
    rows: list[dict[str, object]] = json.loads(page.with_suffix(".json").read_text())["results"]
    return rows


def test_start_up_planning_and_a_copy_are_measured(tmp_path: Path) -> None:
    only = ("start-up", "plan:", "safetensors, 300 tensors, 50 × rename")
    rows = measured(tmp_path, *(word for name in only for word in ("--only", name)))
    assert [row["other"] for row in rows] == [
        "ckmigrate --version",
        "python -c pass",
        "python -c pass",
        "cp + fsync",
    ]
    for row in rows:
        assert "ratios" in row, row
        assert row["ours"]["megabytes"] > 1  # type: ignore[index]


@pytest.mark.slow
def test_every_row_is_measured_or_says_what_is_not_installed(tmp_path: Path) -> None:
    rows = measured(tmp_path, "--cache", "warm")
    assert {row["scenario"] for row in rows} == {found.name for found in scenarios(GB, few=True)}
    for row in rows:
        assert "ratios" in row or any(word in str(row["why"]) for word in ABSENT), row


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "benchmarks", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"|---"):
            break
    process.terminate()
    with process.stdout:
        assert process.stdout.read() == b""
    assert process.wait(timeout=60) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["rename", "split", "transpose", "cast", "compute"])
def test_histories_are_one_chain(tmp_path: Path, change: Change) -> None:
    config = write_project(tmp_path / "project", Chain(change, 10))
    history = read_history(config.parent / "migrations")
    assert (len(history.order), len(history.heads)) == (10, 1)


def test_inputs_are_as_large_as_they_say() -> None:
    wanted = Input("safetensors", 2 * GB, 300)
    shapes = dict(wanted.shapes())
    numbers = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes.values())
    assert len(shapes) == 300
    assert abs(4 * numbers - 2 * GB) < 0.02 * GB


def row(limit: Limit, *, nbytes: int, ratio: float, megabytes: float = 50) -> Row:
    ours, theirs = Run(ratio, megabytes), Run(1, 5)
    return Row("copy", "warm", nbytes, "cp + fsync", (ratio,), ours, theirs, (0.9, 1.1), limit)


def test_promise_is_judged_by_time_and_memory_where_it_holds() -> None:
    limit = Limit("cp + fsync", ratio=1.1, megabytes=100, at_least=2 * GB)
    assert row(limit, nbytes=2 * GB, ratio=1.05).verdict == "met"
    assert row(limit, nbytes=2 * GB, ratio=1.2).verdict == "not met"
    assert row(limit, nbytes=2 * GB, ratio=1.05, megabytes=101).verdict == "not met"
    assert row(limit, nbytes=GB, ratio=1.2).verdict == "not judged below 2 GB"
    assert "≤ 1.1 ×, ≤ 100 MB: met" in table_line(row(limit, nbytes=2 * GB, ratio=1.05))


def test_pairs_alternate_after_a_run_that_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def contender(label: str) -> Contender:
        return Contender(label, lambda files: ["sh", "-c", f"printf {label} >> {log}"])

    scenario = Scenario(
        "order",
        {"": Input("safetensors", 1000, 3)},
        Chain("rename"),
        contender("A"),
        (contender("B"), replace(contender("C"), lacking=lambda: "there is no C")),
        writes_anew=False,
    )
    folder = tmp_path / "bench"
    folder.mkdir()
    found = list(measure(scenario, folder, pairs=3, caches=("warm",), settle=False))
    assert log.read_text() == "AB" + "AB" + "BA" + "AB"
    assert isinstance(found[0], Row)
    assert (len(found[0].ratios), found[1]) == (3, Skipped("order", "C", "there is no C"))
    assert list(folder.iterdir()) == []


def test_scenario_too_large_for_the_disk_is_left_out(tmp_path: Path) -> None:
    huge = {"": Input("safetensors", 10**18, 3)}
    (copied,) = [found for found in scenarios(GB) if found.name.startswith("sharded")]
    (left_out,) = measure(
        replace(copied, inputs=huge), tmp_path, pairs=1, caches=("warm",), settle=False
    )
    assert isinstance(left_out, Skipped)
    assert "GB of disk" in left_out.why


def test_command_that_fails_says_why() -> None:
    with pytest.raises(Failed, match="exit code 3: error: out of luck"):
        run(["sh", "-c", "echo 'error: out of luck' >&2; echo 'and so on' >&2; exit 3"])
