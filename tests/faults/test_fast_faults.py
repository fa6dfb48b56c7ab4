"""A change in place under attack: every call fails, or the process dies before it; then the next
run, or `ckmigrate undo`, finds the old version or the new one and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import CkmigrateError, StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import InterruptedAfterCommit
from ckmigrate.execute.undo import pending_path, require_settled
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.opened import Request, open_weights
from tests.dcp_folders import handmade, rows, whole
from tests.fast import change, snapshot, take_back
from tests.projects import Zoo
from tests.shards import folder

Hook = Callable[[str, tuple[object, ...]], None]
KINDS = [".pt", "ema.pt", ".safetensors", "dcp", pytest.param("shards", marks=pytest.mark.slow)]
SCRIPT = "ck.rename('a', 'x')\nck.split('b', ['q', 'k'], dim=0)\nck.init('n', shape=(3,))"


def made(root: Path, kind: str) -> tuple[Zoo, Path]:
    torch.manual_seed(0)
    zoo = Zoo(root, SCRIPT)
    parts = [{"a": torch.randn(3)}, {"b": torch.randn(4, 2), "c": torch.arange(5)}]
    if kind == "dcp":
        tensors = {"a": whole(parts[0]["a"]), "b": rows(parts[1]["b"], 2, 2)}
        return zoo, handmade(root / "old", {**tensors, "c": whole(parts[1]["c"])})
    if kind == "shards":
        return zoo, folder(root / "old", parts, config={"n": 1})
    state = {**parts[0], **parts[1]}
    average = {name: tensor + 1 for name, tensor in state.items()}
    content = {"model": state, "ema": average} if kind == "ema.pt" else state
    return zoo, zoo.save(content, f"old{kind}")


def files(path: Path) -> dict[str, tuple[bytes, int, int]]:
    """The checkpoint and whatever of ours is beside it."""
    found = snapshot(path.parent)
    return {name: value for name, value in found.items() if not name.startswith(("migr", "ckm"))}


def bare(found: dict[str, tuple[bytes, int, int]]) -> dict[str, bytes]:
    """Contents without the records of changes that are done, and without what the next run removes
    where the disk would not."""
    names = (name for name in found if ".undo-" not in name and not name.endswith(".tmp"))
    return {name: found[name][0] for name in names}


def reference(root: Path, kind: str) -> tuple[Zoo, Path, dict[str, bytes], dict[str, bytes]]:
    """A checkpoint, its content, and its content after the change."""
    zoo, path = made(root, kind)
    old = bare(files(path))
    change(zoo, path)
    new = bare(files(path))
    take_back(path)
    assert bare(files(path)) == old
    assert old != new
    return zoo, path, old, new


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook | None], None]:
    return lambda function: monkeypatch.setattr(syscalls, "before", function)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_leaves_the_old_checkpoint_or_says_what_stands(
    tmp_path: Path, kind: str, number: int, hook: Callable[[Hook | None], None]
) -> None:
    zoo, path, old, new = reference(tmp_path, kind)
    for at in range(500):
        left = at

        def fail(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(number, os.strerror(number))

        hook(fail)
        error: CkmigrateError | None = None
        try:
            change(zoo, path)
        except CkmigrateError as raised:
            error = raised
        hook(None)
        found = bare(files(path))
        stands = error is None or error.code == "CKM758"
        assert found == (new if stands else old), (at, error)
        if stands:
            take_back(path)
        assert bare(files(path)) == old
        if left >= 0:
            break
    assert at > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_for_good_leaves_the_record_and_undo_uses_it(
    tmp_path: Path, kind: str, hook: Callable[[Hook | None], None]
) -> None:
    zoo, path, old, _ = reference(tmp_path, kind)
    codes = set()
    for at in range(500):
        left = at

        def fail(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= 1
            if left < 0 and name in ("pwrite", "fsync", "ftruncate", "rename", "unlink"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        hook(fail)
        try:
            change(zoo, path)
        except CkmigrateError as error:
            codes.add(error.code)
        hook(None)
        if pending_path(path).exists():
            with pytest.raises(StorageError) as refused:
                require_settled(path)
            assert refused.value.code == "CKM773"
        elif bare(files(path)) == old:
            continue
        take_back(path)
        assert bare(files(path)) == old
        if left >= 0:
            break
    assert "CKM775" in codes


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_any_call_leaves_the_old_checkpoint_or_says_that_the_new_one_stands(
    tmp_path: Path, kind: str, hook: Callable[[Hook | None], None]
) -> None:
    zoo, path, old, new = reference(tmp_path, kind)
    for at in range(500):
        left = at

        def interrupt(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                signal.raise_signal(signal.SIGINT)

        hook(interrupt)
        stands = True
        try:
            change(zoo, path)
        except InterruptedAfterCommit:
            pass
        except KeyboardInterrupt:
            stands = False
        hook(None)
        assert bare(files(path)) == (new if stands else old), at
        if stands:
            take_back(path)
        if left >= 0:
            break
    assert at > 20


# --- killed -----------------------------------------------------------------------------------


def dies_at(number: int, work: Callable[[], object]) -> bool:
    """Do it in a fork that is killed before call `number`; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = number

        def kill(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            syscalls.before = kill
            work()
        except BaseException:  # noqa: BLE001 - a fork must never return into the test runner
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_a_kill_before_any_call_is_rolled_back_by_the_next_run(
    tmp_path: Path, kind: str, keep: bool
) -> None:
    zoo, path, old, new = reference(tmp_path, kind)
    pristine, seen = files(path), set()
    for number in range(500):
        killed = dies_at(number, lambda: change(zoo, path, keep=keep))
        pending = pending_path(path).exists()
        seen.add(pending)
        if pending:
            with pytest.raises(StorageError) as refused:
                open_weights(path, zoo.project, Request())
            assert refused.value.code == "CKM773"
            if number % 2:
                change(zoo, path)
                assert bare(files(path)) == new, number
            assert take_back(path) == "base"
            assert files(path) == pristine, number
            continue
        found = bare(files(path))
        assert found in (old, new), number
        if found == old:
            change(zoo, path)
            assert bare(files(path)) == new, number
            take_back(path)
        elif keep:
            take_back(path)
        if not keep and found == new:
            break
        assert files(path) == pristine, number
        if not killed:
            break
    assert number > 20
    assert seen == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_while_it_is_rolled_back_is_rolled_back_too(tmp_path: Path, kind: str) -> None:
    zoo, path, _, _ = reference(tmp_path, kind)
    pristine = files(path)
    cut_off = 0
    for number in range(500):
        change(zoo, path)
        if not dies_at(number, lambda: take_back(path)):
            break
        if files(path) != pristine:
            take_back(path)
            cut_off += 1
        assert files(path) == pristine, number
    assert cut_off > 5
    assert files(path) == pristine


# --- a full disk ------------------------------------------------------------------------------

FULL = """
import errno, os, sys
from pathlib import Path
from ckmigrate.errors import StorageError
from tests.dcp_folders import handmade, rows, whole
from tests.fast import change
from tests.projects import Zoo
zoo = Zoo.__new__(Zoo); zoo.folder = Path(sys.argv[1])
old = Path(sys.argv[2]); before = old.read_bytes()
with open(old.parent / "filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
try:
    change(zoo, old)
except StorageError as error:
    print(error.code)
assert old.read_bytes() == before
assert sorted(os.listdir(old.parent)) == ["filler", "old.pt"], os.listdir(old.parent)
"""


def test_a_full_disk_at_the_undo_record_changes_nothing(tmp_path: Path) -> None:
    zoo, path = made(tmp_path, ".pt")
    mount = tmp_path / "mount"
    mount.mkdir()
    script = (
        f"mount -t tmpfs -o size=128k none {mount} && cp {path} {mount}/old.pt && "
        f'exec {sys.executable} -c "$CODE" {zoo.folder} {mount}/old.pt'
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        env={**os.environ, "CODE": FULL, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    assert done.stdout.split() == ["CKM752"], done.stderr


def test_reading_goes_on_after_all_that(tmp_path: Path) -> None:
    _, path, _, _ = reference(tmp_path, ".safetensors")
    assert set(open_checkpoint(path).tree) == {"a", "b", "c"}  # type: ignore[call-overload]
