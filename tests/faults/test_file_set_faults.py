"""Several files change together: whatever call fails or is the last one, all are old or all are
new, or a journal says that they are neither and the next command takes the change back."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ckmigrate.errors import HistoryError, StorageError
from ckmigrate.execute import syscalls
from ckmigrate.file_set import replace_files, settle_files
from ckmigrate.journal import JOURNAL
from ckmigrate.revisions.graph import read_scripts

OLD = {name: f"old {name}".encode() for name in ("a", "b", "c", "gone")}
NEW = {"a": b"a", "b": b"b", "c": b"c", "new": b"new", "x": b""}


@pytest.fixture(autouse=True)
def no_fault() -> Iterator[None]:
    yield
    syscalls.before = None


def content(folder: Path) -> dict[str, bytes]:
    """Every file, those of a change that is under way included."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if not name.startswith(".")}


def prepared(folder: Path) -> dict[Path, bytes | None]:
    """Three files that change, one that goes, two that are new, one of them in a new folder."""
    for name, data in OLD.items():
        (folder / name).write_bytes(data)
    (folder / "b").chmod(0o640)
    return changed(folder)


def changed(folder: Path) -> dict[Path, bytes | None]:
    names: dict[Path, bytes | None] = {folder / name: NEW[name] for name in ("a", "b", "c")}
    return {**names, folder / "new": b"new", folder / "gone": None, folder / "sub" / "x": b""}


class Trigger:
    """Does something at the N-th system call."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number, self.action, self.calls = number, action, 0
        self.is_past_the_journal = False
        """Whether it was done before that call: the journal was gone."""

    def __call__(self, name: str, arguments: tuple[object, ...]) -> None:
        self.calls += 1
        if self.calls == self.number:
            self.action()
        if self.calls < self.number and name == "unlink":
            self.is_past_the_journal = getattr(arguments[0], "name", "") == JOURNAL


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Work in a child that is killed before its N-th call; False where it makes fewer."""
    with warnings.catch_warnings():
        # Other tests may have left threads; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        syscalls.before = Trigger(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_every_file_gets_its_content(tmp_path: Path) -> None:
    replace_files(prepared(tmp_path), folder=tmp_path)
    assert content(tmp_path) == NEW
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    replace_files({tmp_path / "link": b"new"}, folder=tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_what_is_so_already_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(b"same")
    seen: list[str] = []
    syscalls.before = lambda name, _: seen.append(name)
    replace_files({tmp_path / "same": b"same", tmp_path / "none": None}, folder=tmp_path)
    assert seen == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_whatever_call_fails_all_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        raise error

    failed = 0
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = prepared(folder)
        syscalls.before = trigger = Trigger(number, fail)
        try:
            replace_files(files, folder=folder)
        except (StorageError, KeyboardInterrupt):
            failed += 1
            assert content(folder) == (NEW if trigger.is_past_the_journal else OLD), (
                f"call {number}"
            )
        else:
            # Some calls are not needed: a lock, forcing the folder once everything is done.
            assert content(folder) == NEW, f"call {number}"
        syscalls.before = None
        if trigger.calls < number:
            break
    assert failed > 30


def test_where_nothing_can_be_put_back_the_next_command_does_it(tmp_path: Path) -> None:
    outcomes = set()
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = prepared(folder)
        calls = itertools.count(1)

        def fail(_name: str, _arguments: object, first: int = number, calls: Any = calls) -> None:
            if next(calls) >= first:
                raise OSError(errno.EIO, "broken")

        syscalls.before = fail
        try:
            replace_files(files, folder=folder)
        except StorageError as error:
            outcomes.add(error.code)
            is_half = error.code == "CKM795"
        else:
            break
        syscalls.before = None
        assert is_half == (folder / JOURNAL).exists()
        assert bool(settle_files(folder)) == is_half
        assert content(folder) == OLD, f"from call {number} on"
    assert outcomes == {"CKM792", "CKM795"}


def test_a_kill_at_any_call_is_old_or_new_or_told_and_the_next_run_cleans_up(
    tmp_path: Path,
) -> None:
    found = set()
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = prepared(folder)
        if not killed_at(number, partial(replace_files, files, folder=folder)):
            break
        state = "old" if visible(folder) == OLD else "new" if visible(folder) == NEW else "mixed"
        is_told = (folder / JOURNAL).exists()
        found.add((state, is_told))
        if is_told:
            with pytest.raises(HistoryError, match="cut off"):
                read_scripts(folder)
        files_taken_back = settle_files(folder)
        assert bool(files_taken_back) == is_told
        assert visible(folder) == (NEW if state == "new" and not is_told else OLD)
        replace_files({**changed(folder), folder / "more": b""}, folder=folder)
        (folder / "more").unlink()
        assert content(folder) == NEW, f"call {number}"
    assert number > 30
    assert found == {("old", False), ("old", True), ("mixed", True), ("new", True), ("new", False)}


def test_taking_back_may_be_killed_too(tmp_path: Path) -> None:
    """Before every call of it, from the state in which everything is new and not yet done."""
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        half_changed(folder)
        if not killed_at(number, partial(settle_files, folder)):
            break
        settle_files(folder)
        assert content(folder).keys() - OLD.keys() <= stale(folder)
        assert visible(folder) == OLD, f"call {number}"
    assert number > 8


def stale(folder: Path) -> set[str]:
    """Names of temporary files, which the next change removes."""
    return {path.name for path in folder.rglob(".*.tmp")}


def half_changed(folder: Path) -> None:
    """Killed with every file new and the journal still there."""
    files = prepared(folder)

    def kill(name: str, arguments: tuple[object, ...]) -> None:
        if (name, arguments) == ("unlink", (folder / JOURNAL,)):
            os.kill(os.getpid(), signal.SIGKILL)

    def change() -> None:
        syscalls.before = kill
        replace_files(files, folder=folder)

    assert killed_at(0, change)
    assert visible(folder) == NEW


def test_what_was_edited_since_stays(tmp_path: Path) -> None:
    half_changed(tmp_path)
    (tmp_path / "a").write_bytes(b"edited")
    (tmp_path / "new").write_bytes(b"mine")
    (tmp_path / "gone").write_bytes(b"again")
    settle_files(tmp_path)
    assert visible(tmp_path) == {**OLD, "a": b"edited", "new": b"mine", "gone": b"again"}


def test_a_change_that_a_living_run_is_at_is_left_alone(tmp_path: Path) -> None:
    half_changed(tmp_path)
    before = content(tmp_path)
    fd = os.open(tmp_path / JOURNAL, os.O_RDWR)
    assert syscalls.lock(fd)
    try:
        assert settle_files(tmp_path) == ()
        with pytest.raises(HistoryError) as caught:
            replace_files({tmp_path / "a": b"other"}, folder=tmp_path)
    finally:
        os.close(fd)
    assert caught.value.code == "CKM338"
    assert content(tmp_path) == before
    assert settle_files(tmp_path)


def test_a_second_run_that_comes_in_between_changes_nothing(tmp_path: Path) -> None:
    files = prepared(tmp_path)

    def journal_appears(name: str, _arguments: tuple[object, ...]) -> None:
        if name == "link":
            (tmp_path / JOURNAL).write_bytes(b"of another run")

    syscalls.before = journal_appears
    with pytest.raises(HistoryError) as caught:
        replace_files(files, folder=tmp_path)
    assert caught.value.code == "CKM338"
    assert content(tmp_path) == {**OLD, JOURNAL: b"of another run"}


def test_where_the_old_content_is_lost_git_has_to_help(tmp_path: Path) -> None:
    half_changed(tmp_path)
    (old,) = tmp_path.glob(".a.*.old.tmp")
    old.unlink()
    with pytest.raises(StorageError) as caught:
        settle_files(tmp_path)
    assert caught.value.code == "CKM795"
    assert "git status" in str(caught.value.fix)
    (tmp_path / "a").write_bytes(OLD["a"])
    assert settle_files(tmp_path)
    assert visible(tmp_path) == OLD


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "", ".", "sub/../../outside", "link/outside"]
)
def test_a_journal_that_came_with_a_clone_touches_nothing_outside(
    tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / ".outside.1.old.tmp").write_bytes(b"theirs")
    digest = "c0a4e6a0a4a2f5f3fbd2bea1f4d3d8a4e2d79f5d8ce4e2a9a4f83a4a0f0c9a1e"
    told = {"format": 1, "owner": 1, "files": [[name, digest, False], [name, None, True]]}
    (folder / JOURNAL).write_text(json.dumps(told))
    with pytest.raises(StorageError) as caught:
        settle_files(folder)
    assert caught.value.code == "CKM795"
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "owner": 1, "files": []}', "[[[["])
def test_a_damaged_journal_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(StorageError) as caught:
        settle_files(tmp_path)
    assert caught.value.code == "CKM795"


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    files = {tmp_path / "folder" / "a": b"", tmp_path / "folder": b"x"}
    with pytest.raises(StorageError) as caught:
        replace_files(files, folder=tmp_path)
    assert caught.value.code == "CKM792"
    assert list((tmp_path / "folder").iterdir()) == []
