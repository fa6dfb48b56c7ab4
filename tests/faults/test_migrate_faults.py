"""A whole migration under attack: the file changes, shrinks, or the process dies at any call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination, backup_path
from ckmigrate.execute.temporary import is_temporary
from ckmigrate.migrate import Prepared, carry_out
from tests.projects import Zoo, load, names_in, same, tag_of

Hook = Callable[[str, tuple[object, ...]], None]
SUFFIXES = [".pt", ".safetensors"]
SCRIPTS = (
    "ck.split('a', ['q', 'k'], dim=0)",
    "ck.transpose('b', 0, 1)\nck.compute('c', 'c', lambda t: t * 2)",
)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(64, 300), "b": torch.randn(80, 90), "c": torch.randn(7)}


def expected() -> dict[str, torch.Tensor]:
    old = state()
    q, k = old["a"].chunk(2)
    return {"q": q, "k": k, "b": old["b"].t(), "c": old["c"] * 2}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook | None], None]:
    return lambda function: monkeypatch.setattr(syscalls, "before", function)


# --- the source changes -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_source_that_shrinks_while_it_is_read_is_an_error_and_leaves_nothing(
    tmp_path: Path, suffix: str, in_place: bool, hook: Callable[[Hook | None], None]
) -> None:
    zoo = Zoo(tmp_path, SCRIPTS[0])
    old = zoo.save(state(), f"old{suffix}")
    prepared = zoo.prepare(old)
    before = names_in(tmp_path)
    done: list[str] = []

    def cut(name: str, arguments: tuple[object, ...]) -> None:
        if name in ("pread", "copy_file_range", "copy") and not done:
            done.append(name)
            os.truncate(old, old.stat().st_size // 2)

    hook(cut)
    target = old if in_place else tmp_path / f"new{suffix}"
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(target, in_place=in_place))
    assert done
    assert caught.value.code == "CKM753"
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("moment", ["posix_fallocate", "pwrite", "fsync", "fchmod", "link"])
def test_a_source_that_is_replaced_during_the_run_is_an_error(
    tmp_path: Path, suffix: str, moment: str, hook: Callable[[Hook | None], None]
) -> None:
    zoo = Zoo(tmp_path, *SCRIPTS)
    old = zoo.save(state(), f"old{suffix}")
    prepared = zoo.prepare(old)
    other = zoo.save({name: -tensor for name, tensor in state().items()}, f"other{suffix}")
    content = other.read_bytes()
    fired: list[str] = []

    def replace(name: str, arguments: tuple[object, ...]) -> None:
        if name == moment and not fired:
            fired.append(name)
            os.replace(other, old)

    hook(replace)
    if moment == "link":
        # After the last look at the source nothing stops the commit: the result is of the old one.
        carry_out(prepared, Destination(tmp_path / f"new{suffix}"))
        assert same(load(tmp_path / f"new{suffix}"), expected())
        return
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(old, in_place=True))
    assert caught.value.code == "CKM753"
    assert old.read_bytes() == content


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_source_that_was_replaced_between_plan_and_run_is_an_error(
    tmp_path: Path, suffix: str
) -> None:
    zoo = Zoo(tmp_path, "ck.drop('c', reason='zeros', expect=0)")
    zeros = {**state(), "c": torch.zeros(7)}
    prepared = zoo.prepare(zoo.save(zeros, f"old{suffix}"))
    zoo.save(state(), f"old{suffix}")
    with pytest.raises(StorageError) as caught:
        carry_out(prepared, Destination(tmp_path / f"new{suffix}"))
    assert caught.value.code == "CKM753"


# --- nothing is read or written twice ---------------------------------------------------------


def traffic(prepared: Prepared, target: Path) -> tuple[int, int]:
    """Bytes read of the source and written by the data path, as the system-call module is asked
    for them."""
    read = written = 0
    inode = prepared.opened.stored.identity.inode

    def count(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal read, written
        sizes = [int(str(a)) for a in arguments if isinstance(a, int)]
        if name == "pread":
            read += sizes[1] if os.fstat(sizes[0]).st_ino == inode else 0
        elif name == "pwrite":
            written += sizes[1]
        elif name.startswith("copy"):
            read, written = read + sizes[-1], written + sizes[-1]

    syscalls.before = count
    try:
        carry_out(prepared, Destination(target))
    finally:
        syscalls.before = None
    return read, written


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_chain_of_renames_reads_and_writes_each_byte_once(tmp_path: Path, suffix: str) -> None:
    renames = [f"ck.rename('{a}.**', '{b}.**')" for a, b in zip("abcdef", "bcdefg", strict=True)]
    zoo = Zoo(tmp_path, *renames)
    data = {f"a.{i}": torch.randn(500, 100) for i in range(10)}
    old = zoo.save(data, f"old{suffix}")
    new = tmp_path / f"new{suffix}"
    read, written = traffic(zoo.prepare(old), new)
    assert 2_000_000 <= read < 2_001_000
    assert 2_000_000 <= written < new.stat().st_size + 100
    assert same(load(new), {name.replace("a.", "g."): t for name, t in data.items()})


# --- memory -----------------------------------------------------------------------------------

CHILD = """
import resource, sys
from pathlib import Path
from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history

project = find_project(Path(sys.argv[1]))
request = Request(from_revision="base", use_model=False)
prepared = prepare(project, read_history(project.migrations), Path(sys.argv[2]), request)
carry_out(prepared, Destination(Path(sys.argv[3])))
assert "torch" not in sys.modules, "torch was imported"
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def in_child(zoo: Zoo, old: Path, new: Path) -> int:
    """Run an upgrade in a fresh process; its peak resident memory in bytes."""
    arguments = [sys.executable, "-c", CHILD, str(zoo.folder), str(old), str(new)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    # Not from wait4: that counts what the parent had when it started the child.
    run = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    return int(run.stdout) * 1024


STRUCTURAL = (
    "ck.rename('layers.**', 'blocks.**')\n"
    "ck.split('blocks.{i}.qkv', 'blocks.{i}.{q,k,v}')\n"
    "ck.stack('blocks.{i:int}.q', 'q')\nck.init('scale', shape=(4,))"
)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_structural_chains_without_a_model_never_import_torch(tmp_path: Path, suffix: str) -> None:
    zoo = Zoo(tmp_path, STRUCTURAL)
    old = zoo.save({f"layers.{i}.qkv": torch.randn(6, 4) for i in range(3)}, f"old{suffix}")
    new = tmp_path / f"new{suffix}"
    in_child(zoo, old, new)
    assert load(new)["q"].shape == (3, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_structural_upgrade_takes_memory_of_its_own_size_only(
    tmp_path: Path, suffix: str
) -> None:
    zoo = Zoo(tmp_path, STRUCTURAL)
    data = {f"layers.{i}.qkv": torch.ones(3 * 256, 8192) for i in range(12)}
    old = zoo.save(data, f"old{suffix}")
    assert old.stat().st_size > 300_000_000
    assert in_child(zoo, old, tmp_path / f"new{suffix}") < 100 << 20


# --- killed -----------------------------------------------------------------------------------


def dies_at(prepared: Prepared, destination: Destination, number: int) -> bool:
    """Carry out in a fork that is killed before call `number`; whether it was."""
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
            carry_out(prepared, destination)
        except BaseException:  # noqa: BLE001 - a fork must never return into the test runner
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [*SUFFIXES, "ema.pt"])
@pytest.mark.parametrize("with_backup", [True, False])
def test_a_kill_before_any_call_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, suffix: str, with_backup: bool
) -> None:
    # No torch in the forks: its threads do not survive one.
    zoo = Zoo(tmp_path, SCRIPTS[0], "ck.transpose('b', 0, 1)")
    content = with_average(state()) if suffix == "ema.pt" else state()
    pristine = zoo.save(content, f"old{suffix}").read_bytes()
    old = tmp_path / f"old{suffix}"
    reference = zoo.upgrade(old, f"reference{suffix}").read_bytes()
    backup = backup_path(old, "base") if with_backup else None
    seen = set()
    for number in range(1000):
        old.write_bytes(pristine)
        prepared = zoo.prepare(old)
        killed = dies_at(prepared, Destination(old, in_place=True, backup=backup), number)
        found = old.read_bytes()
        assert found in (pristine, reference), number
        seen.add(found == reference)
        if found == pristine:
            carry_out(zoo.prepare(old), Destination(old, in_place=True, backup=backup))
            assert old.read_bytes() == reference
        else:
            carry_out(zoo.prepare(old), Destination(tmp_path / f"check{suffix}", overwrite=True))
        assert not [name for name in os.listdir(tmp_path) if is_temporary(name)], number
        if with_backup:
            assert all(p.read_bytes() == pristine for p in tmp_path.glob("*.bak-*"))
            for path in tmp_path.glob("*.bak-*"):
                path.unlink()
        if not killed:
            break
    assert number > 15
    assert seen == {True, False}
    assert tag_of(old).revision is not None


def with_average(content: dict[str, torch.Tensor]) -> dict[str, object]:
    average = {name: tensor + 1 for name, tensor in content.items()}
    return {"model": content, "ema": average, "epoch": 3}


@pytest.mark.parametrize("suffix", [*SUFFIXES, "ema.pt"])
def test_an_error_at_any_call_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, suffix: str, hook: Callable[[Hook | None], None]
) -> None:
    zoo = Zoo(tmp_path, SCRIPTS[0], "ck.drop('z', reason='zeros', expect=0)")
    content = {**state(), "z": torch.zeros(9)}
    nested = suffix == "ema.pt"
    old = zoo.save(with_average(content) if nested else content, f"old{suffix}")
    pristine = old.read_bytes()
    new = tmp_path / f"new{suffix}"
    prepared = zoo.prepare(old)
    for number in range(1000):
        left = number

        def fail(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(5, os.strerror(5))

        hook(fail)
        with suppress(StorageError):
            carry_out(prepared, Destination(new))
        hook(None)
        assert old.read_bytes() == pristine
        assert not [name for name in os.listdir(tmp_path) if is_temporary(name)]
        if new.exists():
            found: Mapping[str, object] = load(new)
            parts = (found["model"], found["ema"]) if nested else (found,)
            assert all(isinstance(part, dict) and "k" in part for part in parts)
            new.unlink()
        if left >= 0:
            break
    assert number > 10
