"""Processes that share a batch: killed, interrupted, and one bar for all on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.cli_project import Ran, Toy, command, slowed

_PAUSE = """
import os
real = syscalls.copy_range
def paused(*args, **kwargs):
    pathlib.Path(f"reached-{os.getpid()}").touch()
    time.sleep(30)
syscalls.copy_range = paused
"""
_SUICIDE = """
import os, signal
real = syscalls.copy_range
def killed(*args, **kwargs):
    if not os.path.exists("killed"):
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
syscalls.copy_range = killed
"""


@pytest.fixture
def runs(toy: Toy) -> Path:
    (toy.root / "runs").mkdir()
    for number in range(5):
        toy.checkpoint(f"runs/{number}.safetensors")
    return toy.root / "runs"


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


def temporaries(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if name.startswith(".ckmigrate")]


def started(toy: Toy, env: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """In a process group of its own, as a shell would."""
    return subprocess.Popen(
        command(*arguments),
        cwd=toy.root,
        env=toy.environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(toy: Toy, pattern: str, count: int) -> None:
    end = time.monotonic() + 30
    while len(list(toy.root.glob(pattern))) < count:
        assert time.monotonic() < end, "it was never reached"
        time.sleep(0.02)


@pytest.mark.parametrize("keep_going", [True, False])
def test_a_worker_that_is_killed_is_a_failure_of_its_checkpoint(
    toy: Toy, runs: Path, tmp_path: Path, keep_going: bool
) -> None:
    before = contents(runs)
    more = ["--keep-going"] if keep_going else []
    arguments = ["upgrade", "runs", "--in-place", "--no-backup", "--no-model", "--json"]
    env = slowed(tmp_path / "site", _SUICIDE)
    ran = toy.run(*arguments, "--jobs", "2", *more, env=env)
    assert ran.code == 5
    failed = [result for result in ran.json["results"] if result["outcome"] == "failed"]
    assert [result["error"]["code"] for result in failed] == ["CKM597"]
    assert "SIGKILL" in ran.err
    name = Path(failed[0]["path"]).name
    assert contents(runs)[name] == before[name]
    others = {result["outcome"] for result in ran.json["results"] if not result.get("error")}
    assert others == {"written"} if keep_going else "not tried" in others
    assert len(temporaries(runs)) <= 1
    again = toy.run(*arguments, "--jobs", "2", env=env)
    assert again.code == 0
    assert temporaries(runs) == []
    assert len(set(contents(runs).values())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_stops_all_and_leaves_nothing(
    toy: Toy, runs: Path, tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    before = contents(runs)
    env = slowed(tmp_path / "site", _PAUSE)
    arguments = ["upgrade", "runs", "--in-place", "--no-model", "--jobs", "2", "--json"]
    with started(toy, env, *arguments) as process:
        wait_for(toy, "reached-*", 2)
        (os.killpg if to_all else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=30)
    ran = Ran(process.returncode, out, err)
    assert ran.code == 130
    assert "interrupted; nothing was written" in ran.err
    assert "Traceback" not in ran.err
    outcomes = [result["outcome"] for result in ran.json["results"]]
    assert outcomes == ["interrupted"] * 2 + ["not tried"] * 3
    assert ran.json["error"]["code"] == "interrupted"
    assert contents(runs) == before
    for worker in toy.root.glob("reached-*"):
        assert not Path("/proc", worker.name.split("-")[1]).exists()


def test_workers_end_when_the_first_process_is_killed(toy: Toy, runs: Path, tmp_path: Path) -> None:
    env = slowed(tmp_path / "site", _PAUSE.replace("sleep(30)", "sleep(1)"))
    arguments = ["upgrade", "runs", "--in-place", "--no-model", "--jobs", "2"]
    with started(toy, env, *arguments) as process:
        wait_for(toy, "reached-*", 2)
        process.kill()
        process.communicate(timeout=30)
    end = time.monotonic() + 20
    workers = [Path("/proc", path.name.split("-")[1]) for path in toy.root.glob("reached-*")]
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < end, "a worker stayed behind"
        time.sleep(0.05)
    assert temporaries(runs) == []
    assert len(list(toy.root.glob("reached-*"))) == 2


def test_what_a_model_prints_in_a_worker_is_no_answer(toy: Toy, runs: Path) -> None:
    model = toy.root / "toy_model.py"
    model.write_text(model.read_text().replace("return Toy()", 'print("hello"); return Toy()'))
    ran = toy.run("upgrade", "runs", "--out-dir", "out", "--jobs", "2", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["summary"]["written"] == 5
    assert "hello\n" in ran.err


def test_a_model_is_built_once_to_plan_and_once_for_each_strict_load(toy: Toy, runs: Path) -> None:
    model = toy.root / "toy_model.py"
    model.write_text(model.read_text().replace("return Toy()", 'print("hello"); return Toy()'))
    ran = toy.run("upgrade", "runs", "--out-dir", "out")
    assert ran.err.count("hello") == 6


def test_a_worker_that_is_stopped_alone_cleans_up_and_the_others_go_on(
    toy: Toy, runs: Path, tmp_path: Path
) -> None:
    before = contents(runs)
    body = _SUICIDE.replace("SIGKILL)", "SIGTERM); time.sleep(1)")
    arguments = ["upgrade", "runs", "--in-place", "--no-backup", "--no-model", "--json"]
    env = slowed(tmp_path / "site", body)
    ran = toy.run(*arguments, "--jobs", "2", "--keep-going", env=env)
    results = ran.json["results"]
    assert (ran.code, ran.json["error"]["code"]) == (130, "interrupted")
    assert sorted(result["outcome"] for result in results) == ["interrupted", *["written"] * 4]
    (stopped,) = (Path(one["path"]).name for one in results if one["outcome"] == "interrupted")
    assert contents(runs)[stopped] == before[stopped]
    assert temporaries(runs) == []


def test_what_is_wrong_with_the_project_is_told_once(toy: Toy, runs: Path) -> None:
    (toy.root / "ckmigrate.toml").write_text("nonsense = 1\n")
    ran = toy.run("upgrade", "runs", "--in-place", "--jobs", "2")
    assert ran.code == 2
    assert ran.err.count("error[") == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bar_for_all_on_a_terminal(toy: Toy, runs: Path, tmp_path: Path, jobs: int) -> None:
    env = slowed(tmp_path / "site", _SLOW)
    shown, code = on_terminal(toy, {**env, "TERM": "xterm", "COLUMNS": "120"}, jobs)
    assert code == 0
    for words in ("/5 files", "writing", ".safetensors", "kB", "/s", "out/4.safetensors: base"):
        assert words in shown, words
    assert "5 checkpoints, 25 KB" in shown
    lines = [line for line in shown.split("\r\n") if "wrote" in line]
    assert len(lines) == 5
    assert all(line.rpartition("\x1b[2K")[2].startswith("\x1b[32mwrote") for line in lines)


def test_no_bar_where_it_is_not_wanted(toy: Toy, runs: Path, tmp_path: Path) -> None:
    env = slowed(tmp_path / "site", _SLOW)
    for number, option in enumerate(("-q", "--json", "--json-lines")):
        shown, code = on_terminal(toy, {**env, "TERM": "xterm"}, 2, option, out=f"out{number}")
        assert (code, "files" in shown.replace('"files"', "")) == (0, False), shown


_SLOW = """
from ckmigrate.cli import progress
progress.LONG = 1
real = syscalls.copy_range
def slow(*args, **kwargs):
    time.sleep(0.1)
    return real(*args, **kwargs)
syscalls.copy_range = slow
"""


def on_terminal(
    toy: Toy, env: dict[str, str], jobs: int, *options: str, out: str = "out"
) -> tuple[str, int]:
    """What an upgrade shows where both streams are one terminal."""
    main, side = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(main, 1 << 16)
            except OSError:
                return
            shown.append(data)

    arguments = ["upgrade", "runs", "--out-dir", out, "--no-model", "--jobs", jobs, *options]
    with subprocess.Popen(
        command(*arguments), cwd=toy.root, env=toy.environment(env), stdout=side, stderr=side
    ) as process:
        os.close(side)
        reader = threading.Thread(target=read)
        reader.start()
        code = process.wait(timeout=60)
        reader.join(timeout=10)
    os.close(main)
    return b"".join(shown).decode(), code


def test_verify_shows_a_bar_over_many(toy: Toy) -> None:
    (toy.root / "runs").mkdir()
    for name in "ab":
        toy.checkpoint(f"runs/{name}.safetensors", **{"old.counter": (300_000,)})
    body = "from ckmigrate.cli import progress\nprogress.LONG = 1"
    env = slowed(toy.root / "site", body)
    main, side = pty.openpty()
    with subprocess.Popen(
        command("verify", "runs", "--no-model"),
        cwd=toy.root,
        env=toy.environment(env),
        stdout=subprocess.PIPE,
        stderr=side,
    ) as process:
        os.close(side)
        shown = b""
        while True:
            try:
                shown += os.read(main, 1 << 16)
            except OSError:
                break
        process.communicate(timeout=60)
    os.close(main)
    assert "1/2 files" in shown.decode()
    assert "reading b.safetensors" in shown.decode()
