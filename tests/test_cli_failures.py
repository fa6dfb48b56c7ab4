"""Everything that can go wrong: exit code, one message, nothing written, the source untouched."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli_project import BASE, IDS, Ran, Toy, command, safetensors, slowed


def _missing(path: Path) -> None:
    path.unlink()


def _pointer(path: Path) -> None:
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1000\n"
    )


def _html(path: Path) -> None:
    path.write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


class _Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hacked",)


def _forbidden(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": _Evil()}, protocol=2))
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (_missing, "CKM706", "does not exist"),
        (_pointer, "CKM709", "git lfs pull"),
        (_html, "CKM709", "web page"),
        (_empty, "CKM709", "empty"),
        (_truncated, "CKM7", "old.safetensors"),
        (_folder, "CKM707", "is a folder"),
        (_pipe, "CKM707", "not a regular file"),
        (_forbidden, "CKM7", "system"),
    ],
)
def test_what_is_no_checkpoint_exits_7_and_says_what_it_is(
    toy: Toy, spoil: Callable[[Path], None], code: str, words: str
) -> None:
    path = toy.checkpoint()
    spoil(path)
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.safetensors", "--no-model", "--json")
    assert ran.code == 7, ran.err
    assert ran.json["error"]["code"].startswith(code)
    assert words.lower() in ran.err.lower()
    assert "Traceback" not in ran.err
    _require_untouched(toy, before)
    assert not (toy.root / "hacked").exists()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ('    ck.rename("decoder.**", "x.**")\n', "CKM50", "decoder"),
        ('    ck.rename("head.{p}", "one")\n', "CKM5", "one"),
        ('    ck.split("head.weight", "head.{a,b}", dim=0)\n', "CKM5", "head.weight"),
        ('    ck.split("head.weight", "head.{a,b}", dim=0, sizes=(1, 1))\n', "CKM5", "head.weight"),
        ('    ck.rename("head.bias", "scale")\n', "CKM506", "scale"),
        ('    raise ValueError("boom")\n', "CKM512", "boom"),
        ("    import sys; sys.exit(3)\n", "CKM512", "SystemExit"),
        ("    1 / 0\n", "CKM512", "ZeroDivisionError"),
        ('    ck.todo("decide")\n', "CKM528", "decide"),
        ('    ck.params["width"]\n', "CKM534", "--param width="),
    ],
)
def test_a_script_that_fails_exits_5_with_its_line(
    toy: Toy, body: str, code: str, words: str
) -> None:
    path = toy.checkpoint()
    toy.script(4, "bad", body, revision="d4d4d4d4d4")
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.safetensors", "--no-model")
    assert (ran.code, ran.out) == (5, ""), ran.err
    assert f"error[{code}" in ran.err
    assert words in ran.err
    assert "0004_bad.py, line 11" in ran.err
    assert "Traceback" not in ran.err
    _require_untouched(toy, before)


def test_a_script_that_prints_does_not_spoil_the_json(toy: Toy) -> None:
    toy.script(4, "chatty", '    print("hello from the script")\n', revision="d4d4d4d4d4")
    ran = toy.run("plan", toy.checkpoint(), "--json")
    assert ran.json["ok"] is True
    assert "hello" in ran.err


def test_debug_shows_the_traceback_of_the_script(toy: Toy) -> None:
    toy.script(4, "bad", '    raise ValueError("boom")\n', revision="d4d4d4d4d4")
    ran = toy.run("plan", toy.checkpoint(), "--debug")
    assert ran.code == 5
    assert "Traceback" in ran.err
    assert 'raise ValueError("boom")' in ran.err


def test_an_unknown_revision_exits_4_with_near_ones(toy: Toy) -> None:
    path = toy.checkpoint()
    ran = toy.run("upgrade", path, "--to", "split_qvk", "-o", "new.pt", "--no-model")
    assert ran.code == 4
    assert "near: " in ran.err
    assert "split_qkv" in ran.err


def test_an_invalid_history_exits_3(toy: Toy) -> None:
    toy.script(4, "twin", "", revision=IDS[0], revises=IDS[2])
    for verb in (["history"], ["check", "--no-model"], ["plan", toy.checkpoint()]):
        ran = toy.run(*verb)
        assert (ran.code, ran.out) == (3, "")
        assert "error[CKM311]" in ran.err


def test_claims_that_do_not_hold_are_refused_before_the_commit(toy: Toy) -> None:
    body = '    ck.merge_equal(["encoder.layers.0.q.weight", "encoder.layers.1.q.weight"], "q")\n'
    toy.script(4, "merge", body, revision="d4d4d4d4d4")
    path = toy.checkpoint()
    before = toy.files()
    ran = toy.run("upgrade", path, "-o", "new.safetensors", "--no-model")
    assert (ran.code, "error[CKM530]" in ran.err) == (5, True)
    _require_untouched(toy, before)


def test_a_folder_that_is_not_there_and_one_that_is_not_writable(toy: Toy) -> None:
    path = toy.checkpoint()
    ran = toy.run("upgrade", path, "-o", "nowhere/new.pt", "--no-model")
    assert (ran.code, "error[CKM755]" in ran.err) == (7, True)
    ran = toy.run("upgrade", "nowhere/old.pt", "--in-place", "--no-model")
    assert (ran.code, "error[CKM706]" in ran.err) == (7, True)
    assert "mkdir" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["upgrade"],
        ["history", "--wat"],
        ["stamp", "onlyone"],
        ["--color", "pink", "history"],
        ["show"],
    ],
)
def test_usage_errors_exit_2_in_the_same_shape(toy: Toy, arguments: list[str]) -> None:
    ran = toy.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error[CKM200]: ")
    assert "  fix: " in ran.err
    document = toy.run(*arguments, "--json").json
    assert document["ok"] is False
    assert document["exit_code"] == 2
    assert document["error"]["code"] == "CKM200"


@pytest.mark.parametrize("arguments", [["show", "-1"], ["downgrade", "old.safetensors", "-12"]])
def test_a_step_back_that_reads_as_an_option_is_explained(toy: Toy, arguments: list[str]) -> None:
    ran = toy.run(*arguments)
    assert ran.code == 2
    assert "head-1, or --to -1" in ran.err
    assert toy.run("show", "head-1").code == 0


def test_a_defect_is_told_without_a_traceback(toy: Toy, tmp_path: Path) -> None:
    body = "from ckmigrate.revisions import graph\ngraph.read_history = lambda folder: 1 / 0"
    env = slowed(tmp_path / "site", body)
    ran = toy.run("heads", env=env)
    assert ran.code == 5
    assert "error[CKM599]: internal error: ZeroDivisionError" in ran.err
    assert "--debug" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" in toy.run("heads", "--debug", env=env).err


_PAUSE = """
real = syscalls.{name}
def paused(*args, **kwargs):
    {before}
    pathlib.Path("reached").touch()
    time.sleep(30)
syscalls.{name} = paused
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_write_leaves_nothing(
    toy: Toy, tmp_path: Path, number: signal.Signals
) -> None:
    path = toy.checkpoint()
    before = toy.files()
    env = slowed(tmp_path / "site", _PAUSE.format(name="copy_range", before="pass"))
    ran = _interrupted(toy, env, number, "upgrade", path, "--in-place", "--no-model", "--json")
    assert ran.code == 130
    assert "interrupted; nothing was written" in ran.err
    assert ran.json["error"]["code"] == "interrupted"
    assert "Traceback" not in ran.err
    (toy.root / "reached").unlink()
    _require_untouched(toy, before)


def test_an_interrupt_after_the_commit_says_that_the_new_file_stands(
    toy: Toy, tmp_path: Path
) -> None:
    path = toy.checkpoint()
    body = _PAUSE.format(name="fsync_folder", before="real(*args, **kwargs)")
    env = slowed(tmp_path / "site", body.replace("sleep(30)", "sleep(2)"))
    ran = _interrupted(
        toy, env, signal.SIGINT, "upgrade", path, "-o", "new.safetensors", "--no-model"
    )
    assert ran.code == 130
    assert "the new file stands" in ran.err
    assert toy.run("verify", "new.safetensors", "--no-model").code == 0


def test_two_upgrades_of_one_file_cannot_run_at_once(toy: Toy, tmp_path: Path) -> None:
    path = toy.checkpoint()
    env = slowed(tmp_path / "site", _PAUSE.format(name="copy_range", before="pass"))
    first = _started(toy, env, "upgrade", path, "--in-place", "--no-model")
    try:
        second = toy.run("upgrade", path, "--in-place", "--no-model")
        assert (second.code, "error[CKM754]" in second.err) == (7, True)
        assert f"pid {first.pid}" in second.err
    finally:
        first.kill()
        first.communicate()
    assert toy.run("upgrade", path, "--in-place", "--no-model").code == 0
    assert not [name for name in os.listdir(toy.root) if name.endswith(".tmp")]


def test_a_full_disk_leaves_nothing(toy: Toy) -> None:
    path = toy.checkpoint()
    before = toy.files()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    for way in (["-o", "new.safetensors"], ["--in-place"]):
        ran = toy.run("upgrade", path, *way, "--no-model", preexec_fn=limit)
        assert (ran.code, ran.out) == (7, "")
        assert "error[CKM756]" in ran.err
        _require_untouched(toy, before)


def test_an_answer_that_cannot_be_written_exits_7(toy: Toy) -> None:
    path = toy.checkpoint()
    for arguments in (["history"], ["--help"], ["heads", "--json"], ["plan", path]):
        ran = _with_stdout(toy, Path("/dev/full"), *arguments)
        assert ran.code == 7, arguments
        assert "No space left on device" in ran.err
        assert "Traceback" not in ran.err
        assert "Exception ignored" not in ran.err
    ran = _with_stdout(
        toy, Path("/dev/full"), "upgrade", path, "-o", "new.safetensors", "--no-model"
    )
    assert ran.code == 7
    assert "What was written to files stands" in ran.err
    assert (toy.root / "new.safetensors").exists()


def test_a_reader_that_went_away_is_no_failure(toy: Toy) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        for arguments in (["history"], ["history", "--json"]):
            done = subprocess.run(
                command(*arguments),
                cwd=toy.root,
                env=toy.environment(),
                stdout=write,
                stderr=subprocess.PIPE,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, b"")
    finally:
        os.close(write)


def test_with_stdout_closed_nothing_is_begun(toy: Toy) -> None:
    path = toy.checkpoint()
    before = toy.files()
    words = " ".join(command("upgrade", path, "-o", "new.safetensors", "--no-model"))
    ran = subprocess.run(
        ["sh", "-c", f"{words} >&-"],
        cwd=toy.root,
        env=toy.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 7
    assert "standard output is closed" in ran.stderr
    _require_untouched(toy, before)


def test_quiet_keeps_the_answer_and_drops_remarks(toy: Toy) -> None:
    path = toy.root / "wide.safetensors"
    path.write_bytes(safetensors({**BASE, "head.bias": (7,)}))
    loud = toy.run("upgrade", path, "--from", "base", "-o", "1.safetensors", "--no-model")
    quiet = toy.run("-q", "upgrade", path, "--from", "base", "-o", "2.safetensors", "--no-model")
    assert "note: " in loud.err
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.startswith("wrote 2.safetensors")


def _require_untouched(toy: Toy, before: dict[str, str]) -> None:
    assert toy.files() == before
    assert not [name for name in os.listdir(toy.root) if name.endswith(".tmp")]


def _with_stdout(toy: Toy, stdout: Path, *arguments: object) -> Ran:
    with stdout.open("wb") as stream:
        done = subprocess.run(
            command(*arguments),
            cwd=toy.root,
            env=toy.environment(),
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    return Ran(done.returncode, "", done.stderr)


def _started(toy: Toy, env: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """The command, once it has reached the system call that waits."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=toy.root,
        env=toy.environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(400):
        if (toy.root / "reached").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    return process


def _interrupted(toy: Toy, env: dict[str, str], number: signal.Signals, *arguments: object) -> Ran:
    process = _started(toy, env, *arguments)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return Ran(process.returncode, out, err)
