"""Replacing a text file: whichever system call fails or is the last, it holds old or new."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.text_file import replace_text

OLD, NEW = "old\n" * 1000, "new\n" * 1000
CALLS = 7
"""lstat, open, pwrite, fchmod, fsync, rename, and the open of the folder; then its fsync."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "history.lock"
    path.write_text(OLD)
    yield path
    syscalls.before = None


def fail_at(number: int) -> list[str]:
    """Fails one call; the names of those that came."""
    seen: list[str] = []

    def before(name: str, arguments: tuple[object, ...]) -> None:
        seen.append(name)
        if len(seen) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    syscalls.before = before
    return seen


def test_every_call_that_fails_leaves_the_old_text_or_the_new(path: Path) -> None:
    seen = fail_at(0)
    assert replace_text(path, NEW)
    total = len(seen)
    assert total > CALLS
    for number in range(1, total + 1):
        syscalls.before = None
        replace_text(path, OLD)
        seen = fail_at(number)
        with pytest.raises(StorageError) as caught:
            replace_text(path, NEW)
        assert caught.value.code == "CKM792"
        assert path.read_text() == (NEW if "rename" in seen[:-1] else OLD)
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("number", range(1, CALLS + 2))
def test_a_kill_leaves_the_old_text_or_the_new_and_the_next_run_cleans_up(
    path: Path, number: int
) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from ckmigrate.execute import syscalls
from ckmigrate.text_file import replace_text
left = [{number}]
def before(name, arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
syscalls.before = before
replace_text(Path(sys.argv[1]), "new\\n" * 1000)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() in (OLD, NEW)
    replace_text(path, OLD)
    replace_text(path, NEW)
    assert os.listdir(path.parent) == [path.name]


def test_mode_and_link_stay(path: Path) -> None:
    path.chmod(0o640)
    link = path.with_name("link")
    link.symlink_to(path.name)
    assert replace_text(link, NEW)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not replace_text(path, NEW)


def test_a_new_file_comes_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "schema" / "default.json"
    assert replace_text(path, NEW)
    assert path.read_text() == NEW


def test_what_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write folder"):
        replace_text(tmp_path / "folder", NEW)
