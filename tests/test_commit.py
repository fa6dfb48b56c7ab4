"""A commit gives the whole new file or leaves the old one, and says which."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from stat import S_IMODE

import pytest

from ckmigrate.errors import StorageError, VerificationError
from ckmigrate.execute import syscalls
from ckmigrate.execute.commit import (
    Committed,
    Destination,
    InterruptedAfterCommit,
    backup_path,
    commit,
)
from ckmigrate.execute.lock import locked
from ckmigrate.execute.staging import remove_stale_folders, staging
from ckmigrate.execute.temporary import is_temporary, remove_stale, temporary
from ckmigrate.formats.base import FileIdentity, FileImage, Slot, StoredFile

OLD = b"old " * 1000
NEW = b"head" + b"data" * 2000
IMAGE = FileImage(len(NEW), ((0, b"head"),), {"w": Slot(4, len(NEW) - 4)})

Hook = Callable[[str, tuple[object, ...]], None]


@pytest.fixture(autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "old.pt"
    path.write_bytes(OLD)
    return path


def fill(fd: int) -> Mapping[str, int]:
    syscalls.pwrite(fd, NEW[4:], offset=4)
    return {}


def accept(path: Path, fd: int) -> None:
    assert path.read_bytes() == os.pread(fd, len(NEW) + 1, 0) == NEW


def run(
    destination: Destination,
    source: Path,
    *,
    fill: Callable[[int], Mapping[str, int]] = fill,
    verify: Callable[[Path, int], None] = accept,
    image: FileImage = IMAGE,
) -> Committed:
    sources = (StoredFile(source, FileIdentity.of(source.stat())),)
    return commit(destination, image, fill, source=source, sources=sources, verify=verify)


def refused(destination: Destination, source: Path, **options: object) -> StorageError:
    before = snapshot(source.parent)
    with pytest.raises(StorageError) as caught:
        run(destination, source, **options)  # type: ignore[arg-type]
    assert snapshot(source.parent) == before
    assert caught.value.fix
    return caught.value


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def at(monkeypatch: pytest.MonkeyPatch, call: str, action: Callable[[], object]) -> list[str]:
    """Run `action` before every system call of this name; the list grows by every call's name."""
    calls: list[str] = []

    def hook(name: str, _: tuple[object, ...]) -> None:
        calls.append(name)
        if name == call:
            action()

    monkeypatch.setattr(syscalls, "before", hook)
    return calls


def fail(number: int) -> Callable[[], None]:
    def action() -> None:
        raise OSError(number, os.strerror(number))

    return action


# What is written


def test_commit_writes_a_new_file_and_only_reads_the_source(source: Path) -> None:
    output = source.with_name("new.pt")
    assert run(Destination(output), source) == Committed(output, None)
    assert output.read_bytes() == NEW
    assert snapshot(source.parent) == {str(source): OLD, str(output): NEW}


def test_commit_in_place_keeps_the_old_file_as_a_hard_link(source: Path) -> None:
    inode = source.stat().st_ino
    backup = backup_path(source, "d1339abdd1")
    assert backup.name == "old.pt.bak-d1339abdd1"
    committed = run(Destination(source, in_place=True, backup=backup), source)
    assert committed == Committed(source, backup)
    assert (source.read_bytes(), backup.read_bytes()) == (NEW, OLD)
    assert backup.stat().st_ino == inode


def test_commit_patches_the_file_with_checksums(source: Path) -> None:
    image = FileImage(
        len(NEW), IMAGE.chunks, IMAGE.slots, lambda crcs: ((0, crcs["w"].to_bytes(4, "little")),)
    )

    def fill_and_sum(fd: int) -> Mapping[str, int]:
        fill(fd)
        return {"w": 7}

    output = source.with_name("new.pt")
    run(Destination(output), source, fill=fill_and_sum, image=image, verify=lambda *_: None)
    assert output.read_bytes() == b"\x07\0\0\0" + NEW[4:]


def test_commit_writes_an_empty_file(source: Path) -> None:
    output = source.with_name("new.pt")
    run(
        Destination(output),
        source,
        fill=lambda _: {},
        image=FileImage(0, (), {}),
        verify=lambda *_: None,
    )
    assert output.read_bytes() == b""


def test_commit_forces_file_then_name_to_storage(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = at(monkeypatch, "", lambda: None)
    run(Destination(source, in_place=True, backup=source.with_name("b")), source)
    steps = calls[calls.index("posix_fallocate") :]
    steps = [name for name in steps if name in ("pwrite", "fsync", "fchmod", "link", "rename")]
    assert steps == ["pwrite", "pwrite", "fsync", "fchmod", "fsync", "link", "rename", "fsync"]


@pytest.mark.parametrize("mode", [0o664, 0o400, 0o4755])
def test_commit_keeps_the_mode_of_the_old_file(source: Path, mode: int) -> None:
    source.chmod(mode)
    run(Destination(source, in_place=True), source)
    assert S_IMODE(source.stat().st_mode) == mode & 0o777


def test_commit_gives_a_new_file_the_mode_of_the_umask(source: Path) -> None:
    output = source.with_name("new.pt")
    old = os.umask(0o027)
    try:
        run(Destination(output), source)
    finally:
        os.umask(old)
    assert S_IMODE(output.stat().st_mode) == 0o640


def test_the_temporary_is_private_and_recognisable(source: Path) -> None:
    found: list[tuple[bool, int]] = []

    def verify(path: Path, _: int) -> None:
        found.append((is_temporary(path.name), S_IMODE(path.stat().st_mode)))

    run(Destination(source, in_place=True), source, verify=verify)
    assert found == [(True, 0o600)]


def test_commit_replaces_the_file_that_a_symbolic_link_leads_to(
    source: Path, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "latest.pt"
    link.parent.mkdir()
    link.symlink_to(source)
    committed = run(Destination(link, in_place=True, backup=backup_path(link, "1")), link)
    assert link.is_symlink()
    assert source.read_bytes() == NEW
    assert committed == Committed(link, source.with_name("old.pt.bak-1"))
    assert [path.name for path in link.parent.iterdir()] == ["latest.pt"]


def test_commit_survives_short_writes_and_a_file_system_without_preallocation(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:7], offset))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: fail(errno.EOPNOTSUPP)())
    run(Destination(source, in_place=True), source)
    assert source.read_bytes() == NEW


# Backups


def test_a_backup_never_replaces_another_file(source: Path) -> None:
    wanted = source.with_name("old.pt.bak-1")
    wanted.write_bytes(b"precious")
    wanted.with_name("old.pt.bak-1-2").write_bytes(b"precious too")
    committed = run(Destination(source, in_place=True, backup=wanted), source)
    assert committed.backup == wanted.with_name("old.pt.bak-1-3")
    assert committed.backup.read_bytes() == OLD
    assert wanted.read_bytes() == b"precious"


def test_a_backup_that_is_the_old_file_already_is_reused(source: Path) -> None:
    wanted = source.with_name("old.pt.bak-1")
    wanted.hardlink_to(source)
    assert run(Destination(source, in_place=True, backup=wanted), source).backup == wanted
    assert {path.name for path in source.parent.iterdir()} == {"old.pt", "old.pt.bak-1"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EIO])
def test_commit_without_hard_links_offers_no_backup(
    source: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    at(monkeypatch, "link", fail(number))
    error = refused(Destination(source, in_place=True, backup=source.with_name("b")), source)
    assert error.code == "CKM757"
    assert "--no-backup" in str(error.fix)


def test_the_backup_goes_when_the_rename_fails(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "rename", fail(errno.EIO))
    error = refused(Destination(source, in_place=True, backup=source.with_name("b")), source)
    assert error.code == "CKM750"


# Refusals


def test_commit_never_replaces_a_file_unasked(source: Path) -> None:
    output = source.with_name("new.pt")
    output.write_bytes(b"mine")
    error = refused(Destination(output), source)
    assert (error.code, "--overwrite" in str(error.fix)) == ("CKM751", True)
    run(Destination(output, overwrite=True), source)
    assert output.read_bytes() == NEW


def test_overwrite_does_not_reach_the_source_or_a_device(source: Path) -> None:
    assert refused(Destination(source, overwrite=True), source).code == "CKM751"
    link = source.with_name("link.pt")
    link.symlink_to(source)
    assert refused(Destination(link, overwrite=True), source).code == "CKM751"
    assert refused(Destination(source.parent, overwrite=True), source).code == "CKM751"
    fifo = source.with_name("fifo")
    os.mkfifo(fifo)
    with pytest.raises(StorageError, match="output exists"):
        run(Destination(fifo, overwrite=True), source)


def test_commit_leaves_a_file_that_appeared_meanwhile(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = source.with_name("new.pt")
    at(monkeypatch, "link", lambda: output.write_bytes(b"someone else's"))
    with pytest.raises(StorageError) as caught:
        run(Destination(output), source)
    assert caught.value.code == "CKM751"
    assert snapshot(source.parent) == {str(source): OLD, str(output): b"someone else's"}


def test_a_new_file_needs_no_hard_links(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = source.with_name("new.pt")
    at(monkeypatch, "link", fail(errno.EPERM))
    run(Destination(output), source)
    assert snapshot(source.parent) == {str(source): OLD, str(output): NEW}
    with pytest.raises(StorageError, match="output exists"):
        run(Destination(output), source)


def test_a_folder_must_exist_and_be_writable(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(Destination(source.with_name("no") / "x.pt"), source).code == "CKM755"
    assert refused(Destination(source / "x.pt"), source).code == "CKM755"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert refused(Destination(source.with_name("x.pt")), source).code == "CKM755"


def test_commit_checks_free_space_first(source: Path) -> None:
    image = FileImage(1 << 60, IMAGE.chunks, IMAGE.slots)
    error = refused(Destination(source, in_place=True), source, image=image)
    assert error.code == "CKM752"
    assert str(1 << 60) in error.what


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "CKM752"),
        (errno.EDQUOT, "CKM752"),
        (errno.EFBIG, "CKM756"),
        (errno.EROFS, "CKM755"),
        (errno.EACCES, "CKM755"),
        (errno.EIO, "CKM750"),
        (errno.EUCLEAN, "CKM750"),
    ],
)
def test_every_error_of_the_system_has_a_code_and_a_way_out(
    source: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    at(monkeypatch, "pwrite", fail(number))
    assert refused(Destination(source, in_place=True), source).code == code


def test_a_failed_fsync_is_not_tried_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = at(monkeypatch, "fsync", fail(errno.EIO))
    assert refused(Destination(source, in_place=True), source).code == "CKM750"
    assert calls.count("fsync") == 1
    assert "rename" not in calls


def test_a_source_that_changes_meanwhile_stops_the_commit(source: Path) -> None:
    def fill_slowly(fd: int) -> Mapping[str, int]:
        source.write_bytes(b"training goes on")
        return fill(fd)

    with pytest.raises(StorageError) as caught:
        run(Destination(source, in_place=True), source, fill=fill_slowly)
    assert caught.value.code == "CKM753"
    assert snapshot(source.parent) == {str(source): b"training goes on"}


def test_a_source_that_vanished_stops_the_commit(source: Path) -> None:
    sources = (StoredFile(source, FileIdentity.of(source.stat())),)
    source.unlink()
    with pytest.raises(StorageError, match="changed"):
        commit(
            Destination(source, in_place=True),
            IMAGE,
            fill,
            source=source,
            sources=sources,
            verify=accept,
        )


def test_what_verify_raises_stops_the_commit(source: Path) -> None:
    def verify(_: Path, __: int) -> None:
        raise VerificationError("CKM601", "does not load")

    with pytest.raises(VerificationError):
        run(Destination(source, in_place=True), source, verify=verify)
    assert snapshot(source.parent) == {str(source): OLD}


def test_a_file_of_another_size_than_planned_is_refused(source: Path) -> None:
    def fill_too_much(fd: int) -> Mapping[str, int]:
        syscalls.pwrite(fd, b"x", offset=len(NEW))
        return fill(fd)

    error = refused(Destination(source, in_place=True), source, fill=fill_too_much)
    assert str(len(NEW) + 1) in error.what


def test_a_copy_from_a_source_that_became_shorter_is_refused(source: Path) -> None:
    def copy(fd: int) -> Mapping[str, int]:
        with source.open("rb") as file:
            syscalls.copy_range(
                file.fileno(), fd, source_offset=0, target_offset=4, nbytes=len(OLD) + 1
            )
        return {}

    assert refused(Destination(source, in_place=True), source, fill=copy).code == "CKM753"


# Copies


@pytest.mark.parametrize(
    "number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, 0, None]
)
def test_copy_range_copies_whatever_the_kernel_can_do(
    source: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    if number:
        at(monkeypatch, "copy_file_range", fail(number))
        monkeypatch.setattr(os, "copy_file_range", lambda *_: fail(number)())
        monkeypatch.setattr(syscalls, "before", None)
    elif number == 0:
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    else:
        monkeypatch.delattr(os, "copy_file_range")
    output = source.with_name("copy")
    with source.open("rb") as old, output.open("wb") as new:
        syscalls.copy_range(
            old.fileno(), new.fileno(), source_offset=2, target_offset=1, nbytes=3000
        )
    assert output.read_bytes() == b"\0" + OLD[2:3002]


def test_copy_range_reports_an_error_of_the_disk(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "copy_file_range", fail(errno.EIO))
    with source.open("r+b") as file, pytest.raises(OSError, match="Input/output"):
        syscalls.copy_range(
            file.fileno(), file.fileno(), source_offset=0, target_offset=9000, nbytes=9
        )


# Interruption


def test_ctrl_c_before_the_rename_leaves_the_old_file(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, "fchmod", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        run(Destination(source, in_place=True, backup=source.with_name("b")), source)
    assert not isinstance(caught.value, InterruptedAfterCommit)
    assert snapshot(source.parent) == {str(source): OLD}


@pytest.mark.parametrize("call", ["rename", "open"])
def test_ctrl_c_at_the_rename_says_that_the_new_file_stands(
    source: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    backup = source.with_name("b")
    calls: list[str] = []

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        calls.append(name)
        if name == call and (name == "rename" or arguments[0] == source.parent):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(syscalls, "before", hook)
    idle = threading.Event()
    # A second thread may receive the signal although the first one has it blocked.
    thread = threading.Thread(target=idle.wait)
    thread.start()
    try:
        with pytest.raises(InterruptedAfterCommit) as caught:
            run(Destination(source, in_place=True, backup=backup), source)
    finally:
        idle.set()
        thread.join()
    assert caught.value.committed == Committed(source, backup)
    assert snapshot(source.parent) == {str(source): NEW, str(backup): OLD}
    assert "fsync" in calls[calls.index("rename") :]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_at_the_rename_kills_after_the_commit(source: Path) -> None:
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_commit as t
t.syscalls.before = lambda name, _: name == "rename" and os.kill(os.getpid(), signal.SIGTERM)
t.run(t.Destination(Path(sys.argv[1]), in_place=True), Path(sys.argv[1]))
print("not reached")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(source)], capture_output=True, env=environment
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")
    assert snapshot(source.parent) == {str(source): NEW}


def test_commit_works_outside_the_main_thread(source: Path) -> None:
    results: list[Committed] = []
    thread = threading.Thread(
        target=lambda: results.append(run(Destination(source, in_place=True), source))
    )
    thread.start()
    thread.join()
    assert results == [Committed(source, None)]


def test_a_failing_folder_fsync_tells_that_the_new_file_stands(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name == "open" and arguments[0] == source.parent:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(syscalls, "before", hook)
    with pytest.raises(StorageError) as caught:
        run(Destination(source, in_place=True), source)
    assert caught.value.code == "CKM758"
    assert snapshot(source.parent) == {str(source): NEW}


def test_a_rename_whose_answer_got_lost_counts(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def lose_the_answer(old: Path, new: Path) -> None:
        rename(old, new)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", lose_the_answer)
    run(Destination(source, in_place=True), source)
    assert snapshot(source.parent) == {str(source): NEW}


# Other runs


def test_commit_uses_the_lock_that_the_caller_has(source: Path) -> None:
    sources = (StoredFile(source, FileIdentity.of(source.stat())),)
    with locked(source) as lock:
        with pytest.raises(StorageError, match="another upgrade"):
            run(Destination(source, in_place=True), source)
        commit(
            Destination(source, in_place=True),
            IMAGE,
            fill,
            source=source,
            sources=sources,
            verify=accept,
            lock=lock,
        )
    assert source.read_bytes() == NEW


def test_a_living_run_with_another_lock_folder_is_noticed(
    source: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[str] = []

    def fill_while_another_tries(fd: int) -> Mapping[str, int]:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("other")))
        with pytest.raises(StorageError) as caught:
            run(Destination(source, in_place=True), source)
        codes.append(caught.value.code)
        return fill(fd)

    run(Destination(source, in_place=True), source, fill=fill_while_another_tries)
    assert codes == ["CKM754"]
    assert snapshot(source.parent) == {str(source): NEW}


def test_stale_temporaries_go_and_everything_else_stays(source: Path) -> None:
    folder = source.parent
    stale = folder / f".ckmigrate-{'0' * 12}-1-1-{'0' * 8}-{'0' * 8}.tmp"
    stale.touch()
    other = folder / ".ckmigrate-notes.tmp"
    other.touch()
    link = folder / f".ckmigrate-{'1' * 12}-1-1-{'0' * 8}-{'0' * 8}.tmp"
    link.symlink_to(other)
    run(Destination(source, in_place=True), source)
    assert sorted(path.name for path in folder.iterdir()) == [link.name, other.name, "old.pt"]


def test_without_file_locks_the_name_tells_who_is_dead(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = source.parent
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    dead = folder / f".ckmigrate-{'0' * 12}-1-1-{boot}-{'0' * 8}.tmp"
    elsewhere = folder / f".ckmigrate-{'0' * 12}-1-1-{'f' * 8}-{'0' * 8}.tmp"
    dead.touch()
    elsewhere.touch()
    with locked(source) as lock:
        at(monkeypatch, "flock", fail(errno.ENOLCK))
        commit(
            Destination(source, in_place=True),
            IMAGE,
            fill,
            source=None,
            sources=(),
            verify=accept,
            lock=lock,
        )
    assert sorted(path.name for path in folder.iterdir()) == [elsewhere.name, "old.pt"]


def test_a_temporary_that_a_neighbour_takes_for_a_dead_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen: list[Path] = []

    def steal(name: str, arguments: tuple[object, ...]) -> None:
        if name == "flock" and not stolen:
            stolen.extend(tmp_path.iterdir())
            monkeypatch.setattr(syscalls, "before", None)
            remove_stale(tmp_path / "neighbour")
            remove_stale_folders(tmp_path / "neighbour")
            assert not stolen[0].exists()

    for make in (temporary, staging):
        stolen.clear()
        monkeypatch.setattr(syscalls, "before", steal)
        with make(tmp_path / "x.pt") as made:
            assert stolen
            assert made.path.exists()
            assert made.path != stolen[0]
        assert list(tmp_path.iterdir()) == []
