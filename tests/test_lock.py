"""One upgrade of a checkpoint at a time, whoever asks and however the first one ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute.lock import _candidates, locked

HOLD = """
import sys
from pathlib import Path
from ckmigrate.execute.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_locked_names_the_process_that_has_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with held_elsewhere(path) as process, pytest.raises(StorageError) as caught, locked(path):
        pass
    assert caught.value.code == "CKM754"
    assert f"pid {process.pid})" in caught.value.what


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with held_elsewhere(path) as process:
        process.kill()
        process.wait()
        with locked(path) as lock:
            assert lock.path == path


def test_locked_excludes_other_threads_and_frees_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    errors: list[str] = []

    def second() -> None:
        try:
            with locked(path):
                pass
        except StorageError as error:
            errors.append(error.code)

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    second()
    assert errors == ["CKM754"]


def test_locked_is_about_the_real_file(tmp_path: Path) -> None:
    path, link = tmp_path / "model.pt", tmp_path / "latest.pt"
    path.touch()
    link.symlink_to(path)
    with locked(link) as lock:
        assert lock.path == path
        with pytest.raises(StorageError, match="another upgrade"), locked(path):
            pass
    with locked(path), locked(tmp_path / "other.pt"):
        pass


def test_locked_leaves_nothing_beside_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with locked(folder / "model.pt"):
        assert list(folder.iterdir()) == []


def test_locked_is_released_while_a_forked_child_still_has_the_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with locked(path) as lock:
        inherited = os.dup(lock.fd)
    with locked(path):
        pass
    os.close(inherited)


def test_locked_falls_back_when_the_runtime_folder_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with locked(tmp_path / "model.pt"):
        pass
    assert (tmp_path / f"ckmigrate-{os.getuid()}").is_dir()


@pytest.mark.parametrize("unusable", ["missing", "relative", "read-only"])
def test_locked_does_not_insist_on_an_unusable_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unusable: str
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    folder = {"missing": str(tmp_path / "gone"), "relative": "."}.get(unusable, str(tmp_path))
    monkeypatch.setenv("TMPDIR", folder)
    # The superuser may write everywhere, so that permissions would not do.
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    assert list(_candidates()) == [Path(f"/tmp/ckmigrate-{os.getuid()}")]


def test_locked_refuses_a_folder_that_others_could_tamper_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / f"ckmigrate-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StorageError) as open_to_all, locked(tmp_path / "model.pt"):
        pass
    folder.rmdir()
    folder.symlink_to(tmp_path / "runtime")
    with pytest.raises(StorageError) as a_link, locked(tmp_path / "model.pt"):
        pass
    assert (open_to_all.value.code, a_link.value.code) == ("CKM759", "CKM759")
