"""Commands that write scripts are killed: the project is what it was or what it should become, or
is told to be neither, and the same command then does its work and cleans up."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from ckmigrate.cli import main
from ckmigrate.execute import syscalls
from ckmigrate.journal import JOURNAL
from tests.cli_inside import Inside
from tests.cli_project import IDS, Toy, make_toy

LEFT, RIGHT, MORE = "d4d4d4d4d4", "e5e5e5e5e5", "f6f6f6f6f6"
CHANGING = ("rename", "unlink", "link")


def killed_at(root: Path, number: int, arguments: Sequence[str]) -> bool:
    """The command in a child that is killed before the N-th call that changes a name; False where
    it makes fewer."""
    with warnings.catch_warnings():
        # Other tests may have left threads; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        left = itertools.count(1)

        def kill(name: str, _arguments: tuple[object, ...]) -> None:
            if name in CHANGING and next(left) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            os.chdir(root)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nowhere, fd)
            syscalls.before = kill
            main(list(arguments))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def files(root: Path) -> dict[str, bytes]:
    folder = root / "migrations"
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def visible(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(root).items() if "/." not in f"/{name}"}


def killed_everywhere(
    template: Toy, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[set[str], Toy]:
    """What was found after the kills, and the project in which the command was not killed."""
    before, found = visible(template.root), set[str]()
    for number in itertools.count(1):
        toy = Toy(template.root.with_name(f"{template.root.name}-{number}"))
        shutil.copytree(template.root, toy.root)
        inside = Inside(toy, monkeypatch)
        if not killed_at(toy.root, number, arguments):
            return found, toy
        is_told = (toy.root / "migrations" / JOURNAL).exists()
        is_done = not is_told and visible(toy.root) != before
        found.add("told" if is_told else "new" if is_done else "old")
        ran = inside.run("history")
        assert ran.code == 0, ran.err
        assert ("cut off was taken back" in ran.err) == is_told
        assert is_done or visible(toy.root) == before, f"call {number}"
        again = inside.run(*arguments)
        assert again.code == 0 or is_done, again.err
        assert inside.run("check", "--no-model").code == 0
        assert inside.run("lock", "--check").code == 0
        if not is_done:
            assert files(toy.root) == visible(toy.root), f"call {number}"
    raise AssertionError("it never ends")


@pytest.fixture
def squashed(tmp_path: Path) -> Toy:
    toy = make_toy(tmp_path / "toy")
    assert toy.run("lock").code == 0
    assert toy.run("squash", "1:3").code == 0
    return toy


def test_prune(squashed: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    found, toy = killed_everywhere(squashed, monkeypatch, "prune", "--force")
    assert found == {"old", "told"}
    scripts = [path.name for path in (toy.root / "migrations").glob("*.py")]
    assert scripts == ["0003_squash_0001_to_0003.py"]


def test_rebase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path / "toy")
    toy.script(4, "left", '    ck.rename("head.**", "out.**")\n', revision=LEFT)
    body = '    ck.init("extra", shape=(2,), value=init.ones())\n'
    toy.script(4, "right", body, revision=RIGHT)
    toy.script(5, "more", '    ck.rename("extra", "extra.a")\n', revision=MORE, revises=RIGHT)
    assert toy.run("lock").code == 0
    found, done = killed_everywhere(toy, monkeypatch, "rebase", "--onto", "left")
    assert found == {"old", "told"}
    names = sorted(path.name for path in (done.root / "migrations").glob("*.py"))
    assert names[3:] == ["0004_left.py", "0005_right.py", "0006_more.py"]


def test_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path / "toy")
    toy.script(4, "left", '    ck.rename("head.**", "out.**")\n', revision=LEFT)
    toy.script(4, "right", '    ck.drop("scale", reason="no")\n', revision=RIGHT)
    assert toy.run("lock").code == 0
    found, done = killed_everywhere(toy, monkeypatch, "merge", "-m", "Both")
    assert found == {"old", "told"}
    assert (done.root / "migrations" / "0005_both.py").exists()


def test_squash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path / "toy")
    assert toy.run("lock").code == 0
    found, done = killed_everywhere(toy, monkeypatch, "squash", ":", "-m", "All")
    assert found == {"old", "new"}
    (squash,) = (done.root / "migrations").glob("*_all.py")
    assert all(one in squash.read_text() for one in IDS)
