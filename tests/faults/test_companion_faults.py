"""An upgrade in place of a folder with training state in it: every system call fails, or is the
last one. Weights and state are both the old ones or both the new ones, never one of each."""

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
from safetensors.torch import load_file
from torch import nn

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination
from ckmigrate.execute.staging import remove_stale_folders
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import carry_out
from tests.faults.test_commit_faults import raising
from tests.faults.test_folder_faults import Trigger
from tests.projects import Zoo
from tests.shards import digest
from tests.training_folders import accelerated

RENAME = "ck.rename('0.{p}', 'first.{p}')"
STATE = "custom_checkpoint_0.pkl"

Content = tuple[set[str], set[str], bool]

OLD: Content = ({"0.weight", "0.bias"}, {"0.weight", "0.bias"}, False)
NEW: Content = ({"first.weight", "first.bias"}, {"first.weight", "first.bias"}, True)
AVERAGES = {(3, 4): 12.0, (3,): 3.0}


def content(path: Path) -> Content:
    """The names of the weights, those of their averages, and whether there is a tag."""
    state = torch.load(path / STATE, weights_only=True)
    assert torch.equal(state["noise"], torch.arange(9.0))
    assert {tuple(t.shape): float(t.sum()) for t in state["ema"].values()} == AVERAGES
    tag = open_checkpoint(path).tag
    return set(load_file(path / "model.safetensors")), set(state["ema"]), tag is not None


@dataclass(frozen=True)
class World:
    folder: Path
    zoo: Zoo
    backup: bool

    @property
    def target(self) -> Path:
        return self.folder / "state"

    def build(self) -> World:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))
        average = {name: torch.ones_like(t) for name, t in model.state_dict().items()}
        registered = {"ema": average, "noise": torch.arange(9.0)}
        accelerated(self.target, model, [], registered)
        return self

    def run(self) -> None:
        remove_stale_folders(self.target)
        prepared = self.zoo.prepare(self.target)
        if prepared.has_work:
            backup = self.folder / "state.bak-1" if self.backup else None
            carry_out(prepared, Destination(self.target, in_place=True, folder=True, backup=backup))


def problems(world: World, claim: str) -> Iterator[str]:
    found = content(world.target)
    if found not in (OLD, NEW):
        yield f"weights and state do not belong together: {found}"
    if claim == "done" and found != NEW:
        yield "success was claimed and the target is not new"
    if claim == "failed" and found != OLD:
        yield "failure was claimed and the target is not as before"
    if claim not in ("done", "failed", "in doubt", "killed"):
        yield f"the error has no explanation: {claim}"
    if claim_of(world, 0) != "done" or content(world.target) != NEW:
        yield "the next run fails"
    for path in world.folder.iterdir():
        if path != world.target and not path.name.startswith("state.bak-"):
            yield f"{path.name} is left"
    if world.backup and OLD not in map(content, world.folder.glob("state.bak-*")):
        yield "the old version is lost"


def claim_of(world: World, number: int, code: int = errno.EIO) -> str:
    trigger = Trigger(number, raising(code), within=False)
    syscalls.before = trigger
    try:
        world.run()
    except StorageError as error:
        return "in doubt" if error.code == "CKM758" else "failed"
    except Exception as error:  # noqa: BLE001 -- that there is one is what is reported
        return repr(error)
    finally:
        syscalls.before = None
    return "done" if not number or trigger.name else "past the end"


def killed_at(world: World, number: int) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        end = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        syscalls.before = Trigger(number, end, within=False)
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


def test_a_kill_at_every_call_leaves_weights_and_state_that_belong_together(place: Path) -> None:
    found: list[str] = []
    zoo = Zoo(place / "zoo", RENAME)
    for call in range(1, 1000):
        world = World(place / str(call), zoo, backup=call % 2 == 0).build()
        killed = killed_at(world, call)
        claim = "killed" if killed else "done"
        found += [f"call {call}: {problem}" for problem in problems(world, claim)]
        shutil.rmtree(world.folder)
        if not killed:
            assert call > 20
            break
    assert found == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_every_call_leaves_weights_and_state_that_belong_together(
    place: Path, code: int
) -> None:
    found: list[str] = []
    zoo = Zoo(place / "zoo", RENAME)
    for call in range(1, 1000):
        world = World(place / str(call), zoo, backup=call % 2 == 0).build()
        claim = claim_of(world, call, code)
        ended = claim == "past the end"
        found += [f"call {call}: {p}" for p in problems(world, "done" if ended else claim)]
        shutil.rmtree(world.folder)
        if ended:
            assert call > 20
            break
    assert found == []


def test_where_folders_cannot_change_places_nothing_changes(place: Path) -> None:
    world = World(place / "w", Zoo(place / "zoo", RENAME), backup=True).build()
    before = digest(world.target)
    syscalls.before = Trigger(0, lambda: None, within=True)
    try:
        with pytest.raises(StorageError) as caught:
            world.run()
    finally:
        syscalls.before = None
    assert (caught.value.code, caught.value.details) == ("CKM770", (STATE,))
    assert digest(world.target) == before
    assert os.listdir(world.folder) == ["state"]
