"""Every system call of a commit fails, or is the last one: the path holds old or new, never else.

The same sweep runs over writers that are wrong on purpose, because a sweep that cannot find
anything proves nothing.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute import commit as commit_module
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import Destination, commit
from ckmigrate.execute.temporary import is_temporary
from ckmigrate.formats.base import FileIdentity, FileImage, Slot, StoredFile
from tests.faults.sweeps import raising

OLD = b"old bytes" * 3000
NEW = b"head" + OLD + b"tail"
MINE = b"another file that may be replaced"
IMAGE = FileImage(
    len(NEW),
    ((0, b"head"),),
    {"w": Slot(4, len(OLD))},
    lambda crcs: ((4 + len(OLD), b"tail"),) if crcs == {"w": 1} else (),
)


class Writer(Protocol):
    def __call__(
        self,
        destination: Destination,
        image: FileImage,
        fill: Callable[[int], Mapping[str, int]],
        *,
        source: Path | None,
        sources: Sequence[StoredFile],
        verify: Callable[[Path, int], None],
    ) -> object: ...


@dataclass(frozen=True)
class World:
    """A folder with a source, and what somebody wants done with it."""

    folder: Path
    case: str

    @property
    def source(self) -> Path:
        return self.folder / "model.pt"

    @property
    def target(self) -> Path:
        return self.source if self.case == "in place" else self.folder / "out.pt"

    @property
    def backup(self) -> Path:
        return self.folder / "model.pt.bak-1"

    @property
    def before(self) -> bytes | None:
        return {"in place": OLD, "overwrite": MINE, "output": None}[self.case]

    def build(self) -> World:
        self.folder.mkdir()
        self.source.write_bytes(OLD)
        if self.case == "overwrite":
            self.target.write_bytes(MINE)
        return self

    def run(self, writer: Writer) -> None:
        destination = {
            "in place": Destination(self.source, in_place=True, backup=self.backup),
            "overwrite": Destination(self.target, overwrite=True),
            "output": Destination(self.target),
        }[self.case]
        fd = os.open(self.source, os.O_RDONLY)
        size = os.fstat(fd).st_size
        try:
            writer(
                destination,
                IMAGE,
                lambda out: fill(fd, out),
                source=self.source,
                sources=(StoredFile(self.source, FileIdentity.of(os.fstat(fd))),),
                verify=verify if size == len(OLD) else lambda *_: None,
            )
        finally:
            os.close(fd)


def fill(source_fd: int, fd: int) -> Mapping[str, int]:
    half = len(OLD) // 2
    for start in (0, half):
        syscalls.copy_range(
            source_fd, fd, source_offset=start, target_offset=4 + start, nbytes=len(OLD) - half
        )
    return {"w": 1}


def verify(path: Path, fd: int) -> None:
    assert syscalls.pread(fd, len(NEW), offset=0) == NEW
    assert path.stat().st_size == len(NEW)


CASES = ["in place", "output", "overwrite"]


class Trigger:
    """A hook that does something at the N-th system call."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number, self.action, self.calls = number, action, 0
        self.name = ""

    def __call__(self, name: str, _: tuple[object, ...]) -> None:
        self.calls += 1
        if self.calls == self.number:
            self.name = name
            self.action()


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def problems(world: World, claim: str, writer: Writer) -> Iterator[str]:
    """What is wrong after a run that claims "done", "failed", "in doubt" or nothing (killed)."""
    found = read(world.target)
    if found not in (world.before, NEW):
        yield f"the target is neither old nor new: {found and len(found)} bytes"
    if claim == "done" and found != NEW:
        yield "success was claimed and the target is not new"
    if claim == "failed" and found != world.before:
        yield "failure was claimed and the target is not as before"
    if claim not in ("done", "failed", "in doubt", "killed"):
        yield f"the error has no explanation: {claim}"
    if world.case != "in place" and read(world.source) != OLD:
        yield "the source was touched"
    if read(world.backup) not in (None, OLD):
        yield "the backup is not the old file"
    if claim in ("done", "failed", "in doubt"):
        yield from strangers(world)
    yield from after_next_run(world, writer)


def after_next_run(world: World, writer: Writer) -> Iterator[str]:
    """The next run must work, and clean up."""
    done_already = world.case == "output" and read(world.target) == NEW
    try:
        world.run(writer)
    except StorageError as error:
        if not (done_already and error.code == "CKM751"):
            yield f"the next run fails: {error}"
    yield from strangers(world)


def strangers(world: World) -> Iterator[str]:
    expected = {world.source, world.target, world.backup, Path(f"{world.backup}-2")}
    for path in set(world.folder.iterdir()) - expected:
        yield f"{path.name} is left"


def claim_of(world: World, writer: Writer, trigger: Trigger) -> str:
    syscalls.before = trigger
    try:
        world.run(writer)
    except StorageError as error:
        return "in doubt" if error.code == "CKM758" else "failed"
    except Exception as error:  # noqa: BLE001 -- that there is one is what is reported
        return repr(error)
    finally:
        syscalls.before = None
    return "done"


def killed_at(world: World, writer: Writer, number: int) -> bool:
    """Run in a child that is killed before its N-th call; False where it makes fewer."""
    with warnings.catch_warnings():
        # Other tests may have left threads; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        syscalls.before = Trigger(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        try:
            world.run(writer)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def sweep_errors(folder: Path, case: str, writer: Writer, number: int) -> list[str]:
    """Fail every call once with this errno; every violation of the promise."""
    found: list[str] = []
    for call in range(1, 1000):
        world = World(folder / str(call), case).build()
        trigger = Trigger(call, raising(number))
        claim = claim_of(world, writer, trigger)
        found += [f"call {call} {trigger.name}: {p}" for p in problems(world, claim, writer)]
        if not trigger.name:
            assert call > 5
            assert claim == "done"
            return found
    raise AssertionError("the writer never ends")


def sweep_kills(folder: Path, case: str, writer: Writer) -> list[str]:
    """Kill before every call once; every violation of the promise."""
    found: list[str] = []
    for call in range(1, 1000):
        world = World(folder / str(call), case).build()
        killed = killed_at(world, writer, call)
        claim = "killed" if killed else "done"
        found += [f"call {call}: {problem}" for problem in problems(world, claim, writer)]
        if not killed:
            assert call > 5
            return found
    raise AssertionError("the writer never ends")


# Writers that are wrong on purpose


def overwriting(
    destination: Destination,
    image: FileImage,
    fill: Callable[[int], Mapping[str, int]],
    **_: object,
) -> None:
    """Writes a good temporary file and then copies it over the target."""
    temp = destination.path.with_name("temp")
    fd = syscalls.open_fd(temp, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    out = -1
    try:
        for offset, data in image.chunks:
            syscalls.pwrite(fd, data, offset=offset)
        assert image.finish
        for offset, data in image.finish(fill(fd)):
            syscalls.pwrite(fd, data, offset=offset)
        out = syscalls.open_fd(destination.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        syscalls.copy_range(fd, out, source_offset=0, target_offset=0, nbytes=image.size)
        syscalls.fsync(out)
    except OSError as error:
        raise StorageError("CKM750", str(error)) from error
    finally:
        temp.unlink(missing_ok=True)
        for descriptor in (fd, out):
            if descriptor >= 0:
                syscalls.close(descriptor)


def renaming_too_early(
    destination: Destination,
    image: FileImage,
    fill: Callable[[int], Mapping[str, int]],
    **_: object,
) -> None:
    """Renames first and forces to storage later, and knows nothing of runs that were killed."""
    temp = destination.path.with_name(f"temp-{os.urandom(4).hex()}")
    fd = syscalls.open_fd(temp, os.O_RDWR | os.O_CREAT)
    try:
        for offset, data in image.chunks:
            syscalls.pwrite(fd, data, offset=offset)
        assert image.finish
        for offset, data in image.finish(fill(fd)):
            syscalls.pwrite(fd, data, offset=offset)
        syscalls.rename(temp, destination.path)
        syscalls.fsync(fd)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise StorageError("CKM750", str(error)) from error
    finally:
        syscalls.close(fd)


# The sweeps


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_leaves_old_or_new(tmp_path: Path, case: str, number: int) -> None:
    assert sweep_errors(tmp_path, case, commit, number) == []


@pytest.mark.parametrize("case", CASES)
def test_a_kill_at_any_call_leaves_old_or_new(tmp_path: Path, case: str) -> None:
    assert sweep_kills(tmp_path, case, commit) == []


@pytest.mark.parametrize("case", CASES)
def test_the_sweeps_find_what_a_naive_writer_does(tmp_path: Path, case: str) -> None:
    for kind in ("errors", "kills"):
        (tmp_path / kind).mkdir()
    by_errors = sweep_errors(tmp_path / "errors", case, overwriting, errno.ENOSPC)
    by_kills = sweep_kills(tmp_path / "kills", case, overwriting)
    assert any("neither old nor new" in problem for problem in by_errors)
    assert any("neither old nor new" in problem for problem in by_kills)


def test_the_sweeps_find_a_rename_before_the_fsync_and_forgotten_files(tmp_path: Path) -> None:
    for kind in ("errors", "kills"):
        (tmp_path / kind).mkdir()
    by_errors = sweep_errors(tmp_path / "errors", "in place", renaming_too_early, errno.EIO)
    by_kills = sweep_kills(tmp_path / "kills", "in place", renaming_too_early)
    assert any("failure was claimed" in problem for problem in by_errors)
    assert any("is left" in problem for problem in by_kills)


def test_the_sweep_finds_a_commit_that_forgets_old_temporaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "remove_stale", lambda _: None)
    found = sweep_kills(tmp_path, "output", commit)
    assert found
    assert all("is left" in problem for problem in found)


@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_at_any_call_leaves_old_or_new_and_tells_which(tmp_path: Path, case: str) -> None:
    for call in range(1, 1000):
        world = World(tmp_path / str(call), case).build()
        trigger = Trigger(call, lambda: signal.raise_signal(signal.SIGINT))
        syscalls.before = trigger
        try:
            world.run(commit)
            claim = "done"
        except commit_module.InterruptedAfterCommit:
            claim = "done"
        except KeyboardInterrupt:
            claim = "failed"
        finally:
            syscalls.before = None
        assert list(problems(world, claim, commit)) == [], f"call {call} {trigger.name}"
        if not trigger.name:
            return


# Limits that the system itself enforces


def in_child(action: Callable[[], None]) -> int:
    """The exit status of a forked child that ran `action`; 1 where it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("case", CASES)
def test_a_limit_on_file_sizes_leaves_the_old_file(tmp_path: Path, case: str) -> None:
    world = World(tmp_path / "w", case).build()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) // 2, len(NEW) // 2))
        with pytest.raises(StorageError) as caught:
            world.run(commit)
        assert caught.value.code == "CKM756"

    assert in_child(limited) == 0
    assert list(problems(world, "failed", commit)) == []


IN_SMALL_MOUNT = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_commit_faults as t
world = t.World(Path({folder!r}) / "w", "in place")
try:
    world.run(t.commit)
except t.StorageError as error:
    print(error.code, t.read(world.target) == t.OLD, len(os.listdir(world.folder)))
else:
    print("done")
"""


def in_mount(folder: Path, options: str, *, free: int) -> str:
    """What a commit prints on a tmpfs of its own that is small or read-only."""
    mount = folder / "mount"
    mount.mkdir()
    script = IN_SMALL_MOUNT.format(tests=str(Path(__file__).parent), folder=str(mount))
    size = (len(OLD) // 4096 + 1) * 4096 + free
    shell = (
        f"mount -t tmpfs -o size={size} none {mount} && mkdir {mount}/w && "
        f"cat > {mount}/w/model.pt && mount -o remount,{options} {mount} && "
        f'exec "$0" -c "$1"'
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", shell, sys.executable, script],
        input=OLD,
        capture_output=True,
        env=environment,
    )
    if b"mount" in done.stderr or b"unshare" in done.stderr:
        pytest.skip(f"no mounts of our own here: {done.stderr.decode()}")
    assert done.stderr == b""
    return done.stdout.decode().strip()


needs_unshare = pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")


@needs_unshare
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    assert in_mount(tmp_path, "rw", free=8192) == "CKM752 True 1"


@needs_unshare
def test_a_read_only_file_system_is_explained(tmp_path: Path) -> None:
    assert in_mount(tmp_path, "ro", free=1 << 20) == "CKM755 True 1"


def test_of_two_runs_at_once_one_waits_for_its_turn(tmp_path: Path) -> None:
    world = World(tmp_path / "w", "in place").build()
    ready, proceed = os.pipe(), os.pipe()

    def slow() -> None:
        def wait(name: str, _: tuple[object, ...]) -> None:
            if name == "copy_file_range":
                syscalls.before = None
                os.write(ready[1], b"1")
                os.read(proceed[0], 1)

        syscalls.before = wait
        world.run(commit)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            slow()
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    try:
        with pytest.raises(StorageError) as caught:
            world.run(commit)
    finally:
        os.write(proceed[1], b"1")
        os.waitpid(pid, 0)
    assert caught.value.code == "CKM754"
    assert str(pid) in caught.value.what
    assert (read(world.target), read(world.backup)) == (NEW, OLD)
    assert list(strangers(world)) == []
    assert not any(is_temporary(path.name) for path in world.folder.iterdir())
    for descriptor in (*ready, *proceed):
        os.close(descriptor)


# The kernel's own view


UNDER_STRACE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_commit_faults as t
t.World(Path({folder!r}), {case!r}).run(t.commit)
"""

TRACED = [
    "openat",
    "fallocate",
    "pwrite64",
    "copy_file_range",
    "fsync",
    "fchmod",
    "link,linkat",
    "rename",
    "unlink",
]
# A new name is given by a link, an old one by a rename; only in place there is a backup.
NEVER_CALLED = {("output", "rename"), ("overwrite", "link,linkat")}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", TRACED)
def test_a_kill_by_the_kernel_leaves_old_or_new(tmp_path: Path, case: str, names: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    # Python opens a thousand files before it runs a line of ours: only the last ones matter.
    first = count_opens(tmp_path, case, environment) - 8 if names == "openat" else 1
    for when in range(first, first + 20):
        world = World(tmp_path / str(when), case).build()
        code = UNDER_STRACE.format(
            tests=str(Path(__file__).parent), folder=str(world.folder), case=case
        )
        done = subprocess.run(
            [
                *("strace", "-f", "-o", os.devnull, "-e", f"trace={names}"),
                *("-e", f"inject={names}:signal=KILL:when={when}", sys.executable, "-c", code),
            ],
            capture_output=True,
            env=environment,
        )
        if b"strace" in done.stderr:
            pytest.skip(f"strace cannot trace here: {done.stderr.decode()}")
        killed = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert killed or done.returncode == 0, done.stderr.decode()
        assert list(problems(world, "killed" if killed else "done", commit)) == []
        if not killed:
            assert when > first or (case, names) in NEVER_CALLED
            return


def count_opens(folder: Path, case: str, environment: Mapping[str, str]) -> int:
    world = World(folder / "count", case).build()
    code = UNDER_STRACE.format(
        tests=str(Path(__file__).parent), folder=str(world.folder), case=case
    )
    log = folder / "log"
    subprocess.run(
        ["strace", "-f", "-o", str(log), "-e", "trace=openat", sys.executable, "-c", code],
        check=True,
        env=environment,
    )
    return log.read_text().count("openat(")
