"""An upgrade of a DCP folder in place: every system call fails, or is the last one. The name holds
the old checkpoint or the new one, with its tag; where folders cannot change places as well."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree import Tensor as Node
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.migrate import carry_out
from tests.dcp_folders import handmade, rows, whole
from tests.faults.test_commit_faults import raising
from tests.faults.test_folder_faults import Trigger
from tests.projects import Zoo

SCRIPTS = {
    "rename": "ck.rename('a', 'z')",
    "split": "ck.split('a', ['q', 'k'], dim=0)\nck.init('n', shape=(2,), value=init.ones())",
}
SWEEPS = [
    pytest.param("rename", False, id="rename-within"),
    pytest.param("split", True, id="split-swap", marks=pytest.mark.slow),
    pytest.param("rename", True, id="rename-swap", marks=pytest.mark.slow),
    pytest.param("split", False, id="split-within", marks=pytest.mark.slow),
]

Content = tuple[dict[str, bytes], bool]


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(6, 4), "b": torch.randn(5)}


def wanted(kind: str) -> dict[str, torch.Tensor]:
    old = state()
    if kind == "rename":
        return {"z": old["a"], "b": old["b"]}
    q, k = old["a"].chunk(2)
    return {"q": q, "k": k, "b": old["b"], "n": torch.ones(2)}


def raw(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: bytes(t.contiguous().numpy().tobytes()) for name, t in tensors.items()}


def content(path: Path) -> Content:
    """Every tensor, and whether there is a tag."""
    stored = open_checkpoint(path)
    assert isinstance(stored.tree, dict)
    entries = {str(k): v for k, v in stored.tree.items() if isinstance(v, Node)}
    with loaded_tensors(stored, entries) as found:
        return raw(found), stored.tag is not None


@dataclass(frozen=True)
class World:
    folder: Path
    zoo: Zoo
    kind: str
    exchanges: bool
    backup: bool

    @property
    def target(self) -> Path:
        return self.folder / "model"

    @property
    def old(self) -> Content:
        return raw(state()), False

    @property
    def new(self) -> Content:
        return raw(wanted(self.kind)), True

    def build(self) -> World:
        old = state()
        self.folder.mkdir()
        handmade(self.target, {"a": rows(old["a"], 4, 2), "b": whole(old["b"])})
        (self.target / "notes.txt").write_text("kept")
        return self

    def run(self) -> None:
        remove_stale_folders(self.target)
        prepared = self.zoo.prepare(self.target)
        if prepared.has_work:
            backup = self.folder / "model.bak-1" if self.backup else None
            carry_out(prepared, Destination(self.target, in_place=True, folder=True, backup=backup))

    def problems(self, claim: str) -> Iterator[str]:
        found = content(self.target)
        if found not in (self.old, self.new):
            yield "the target is neither old nor new"
        if claim == "done" and found != self.new:
            yield "success was claimed and the target is not new"
        if claim == "failed" and (found != self.old or (self.target / "ckmigrate.json").exists()):
            yield "failure was claimed and the target is not as before"
        if claim not in ("done", "failed", "in doubt", "killed"):
            yield f"the error has no explanation: {claim}"
        yield from self.after_next_run()

    def after_next_run(self) -> Iterator[str]:
        claim = claim_of(self, 0)
        if claim != "done" or content(self.target) != self.new:
            yield f"the next run: {claim}"
        for path in self.folder.iterdir():
            if path != self.target and not path.name.startswith("model.bak-"):
                yield f"{path.name} is left"
        known = {".metadata", "ckmigrate.json", "notes.txt"}
        for name in set(os.listdir(self.target)) - known:
            if name not in named(self.target):
                yield f"{name} is left in the folder"
        if (self.target / "notes.txt").read_text() != "kept":
            yield "what is beside is lost"
        if self.backup and self.old not in map(content, self.folder.glob("model.bak-*")):
            yield "the old version is lost"


def named(path: Path) -> tuple[str, ...]:
    stored = open_checkpoint(path)
    assert stored.dcp is not None
    return stored.dcp.files


def claim_of(world: World, number: int, code: int = errno.EIO) -> str:
    syscalls.before = Trigger(number, raising(code), within=not world.exchanges)
    try:
        world.run()
    except StorageError as error:
        return "in doubt" if error.code == "CKM758" else "failed"
    except Exception as error:  # noqa: BLE001 -- that there is one is what is reported
        return repr(error)
    finally:
        made = syscalls.before.name
        syscalls.before = None
    return "done" if not number or made else "past the end"


def killed_at(world: World, number: int) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        end = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        syscalls.before = Trigger(number, end, within=not world.exchanges)
        try:
            world.run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.fixture(autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("kind", "exchanges"), SWEEPS)
def test_a_kill_at_every_call_leaves_old_or_new(place: Path, kind: str, exchanges: bool) -> None:
    found: list[str] = []
    zoo = Zoo(place / "zoo", SCRIPTS[kind])
    for call in range(1, 1000):
        world = World(place / str(call), zoo, kind, exchanges, backup=call % 2 == 0).build()
        killed = killed_at(world, call)
        claim = "killed" if killed else "done"
        found += [f"call {call}: {problem}" for problem in world.problems(claim)]
        shutil.rmtree(world.folder)
        if not killed:
            assert call > 20
            break
    assert found == []


@pytest.mark.parametrize(("kind", "exchanges"), SWEEPS)
def test_an_error_at_every_call_leaves_old_or_new(place: Path, kind: str, exchanges: bool) -> None:
    found: list[str] = []
    zoo = Zoo(place / "zoo", SCRIPTS[kind])
    for call in range(1, 1000):
        code = (errno.EIO, errno.ENOSPC)[call % 2]
        world = World(place / str(call), zoo, kind, exchanges, backup=call % 4 < 2).build()
        claim = claim_of(world, call, code)
        if claim == "past the end":
            assert call > 20
            break
        found += [f"call {call}: {problem}" for problem in world.problems(claim)]
        shutil.rmtree(world.folder)
    assert found == []


def test_from_within_a_tag_that_is_there_is_replaced(place: Path) -> None:
    zoo = Zoo(place / "zoo", SCRIPTS["rename"])
    world = World(place / "w", zoo, "rename", exchanges=False, backup=False).build()
    assert claim_of(world, 0) == "done"
    zoo.add(2, SCRIPTS["split"].replace("'a'", "'z'"))
    assert claim_of(world, 0) == "done"
    assert content(world.target) == (raw(wanted("split")), True)
    assert (world.target / "ckmigrate.json").read_text().count('"metadata"') == 1


def test_from_within_only_what_changes_is_replaced(place: Path) -> None:
    zoo = Zoo(place / "zoo", SCRIPTS["rename"])
    world = World(place / "w", zoo, "rename", exchanges=False, backup=False).build()
    data = {name: (world.target / name).stat().st_ino for name in named(world.target)}
    assert claim_of(world, 0) == "done"
    assert {name: (world.target / name).stat().st_ino for name in data} == data
    assert content(world.target) == world.new
