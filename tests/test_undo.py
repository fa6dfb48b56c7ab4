"""Undo records: what they bring back, and what they are not allowed to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.errors import CkmigrateError, StorageError
from ckmigrate.execute import syscalls
from ckmigrate.execute.apply import apply
from ckmigrate.execute.lock import locked
from ckmigrate.execute.patch import Patch, created, removed, rewritten
from ckmigrate.execute.undo import pending_path, settle
from ckmigrate.execute.undo_record import (
    DamagedRecord,
    Saved,
    UndoRecord,
    decode,
    encode,
    encode_after,
)
from ckmigrate.fast import carry_out_in_place
from ckmigrate.formats.base import FileIdentity
from tests.fast import change, refusal, snapshot, take_back
from tests.projects import Zoo
from tests.shards import folder

NOW = FileIdentity(1, 2, 100, 3)
RECORD = UndoRecord(
    "old.pt", "base", (Saved("", NOW, 0o600, 4096, 4300, ((0, b"head"), (96, b"tail"))),)
)


def project(root: Path) -> tuple[Zoo, Path]:
    zoo = Zoo(root, "ck.rename('a', 'x')", "ck.rename('x', 'y')")
    return zoo, zoo.save({"a": torch.ones(3)}, "old.pt")


# --- the bytes of a record --------------------------------------------------------------------


def test_a_record_reads_back_as_it_was_written() -> None:
    assert decode(encode(RECORD)) == RECORD
    done = replace(RECORD, after=(replace(NOW, mtime_ns=-5),))
    assert decode(encode(RECORD) + encode_after((replace(NOW, mtime_ns=-5),))) == done


@given(st.data())
def test_a_record_that_is_cut_off_or_changed_is_no_record(data: st.DataObject) -> None:
    raw = bytearray(encode(RECORD))
    at = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(DamagedRecord):
        decode(bytes(raw[:at]))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedRecord):
        decode(bytes(raw))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_damaged(raw: bytes) -> None:
    for text in (raw, b"ckmigrate undo 1\n" + raw):
        with pytest.raises(DamagedRecord):
            decode(text)


def test_a_state_after_the_change_that_is_cut_off_was_not_reached() -> None:
    raw = encode(RECORD) + encode_after((NOW,))
    for end in range(len(encode(RECORD)), len(raw)):
        assert decode(raw[:end]).after is None


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a\0b", ".."])
def test_a_record_names_no_file_outside_of_its_checkpoint(name: str) -> None:
    bad = replace(RECORD, files=(replace(RECORD.files[0], name=name),))
    with pytest.raises(DamagedRecord):
        decode(encode(bad))


def test_a_record_has_no_bytes_outside_of_its_files() -> None:
    bad = replace(RECORD, files=(replace(RECORD.files[0], old=((98, b"long"),)),))
    with pytest.raises(DamagedRecord):
        decode(encode(bad))


# --- records that are not ours ----------------------------------------------------------------


def planted(path: Path, record: UndoRecord) -> None:
    pending_path(path).write_bytes(encode(record))


def refused(path: Path) -> StorageError:
    before = snapshot(path.parent)
    with pytest.raises(StorageError) as caught:
        settle(path)
    assert snapshot(path.parent) == before
    return caught.value


def of(path: Path, **changes: object) -> UndoRecord:
    """A record that would write into a file, with a lie in it."""
    stat = path.stat()
    saved = Saved("", FileIdentity.of(stat), 0o600, 0, stat.st_size, ((0, b"evil"),))
    file = replace(saved, **{k: v for k, v in changes.items() if k != "target"})  # type: ignore[arg-type]
    return UndoRecord(str(changes.get("target", path.name)), "base", (file,))


def test_a_record_of_another_file_writes_nothing(tmp_path: Path) -> None:
    _, path = project(tmp_path)
    now = FileIdentity.of(path.stat())
    planted(path, of(path, identity=replace(now, inode=now.inode + 1)))
    assert "another file" in str(refused(path).why)
    planted(path, of(path, target="other.pt"))
    assert "other.pt" in str(refused(path).why)
    planted(path, of(path, name="config.json"))
    assert refused(path).code == "CKM774"
    planted(path, of(path, size=now.size - 1, identity=replace(now, size=now.size - 1)))
    assert "no part of the change" in str(refused(path).why)
    pending_path(path).write_bytes(b"anything")
    error = refused(path)
    assert error.code == "CKM774"
    assert "remove the record" in str(error.fix)


def test_a_record_that_is_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    _, path = project(tmp_path)
    target = tmp_path / "elsewhere"
    target.write_bytes(encode(of(path)))
    pending_path(path).symlink_to(target)
    assert refused(path).code == "CKM774"
    pending_path(path).unlink()
    os.mkfifo(pending_path(path))
    with pytest.raises(StorageError) as caught:
        settle(path)
    assert caught.value.code == "CKM774"


def test_a_record_of_another_user_is_not_believed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    _, path = project(tmp_path)
    planted(path, of(path))
    os.chown(pending_path(path), 12345, 12345)
    assert "12345" in str(refused(path).why)


def test_a_record_of_a_folder_writes_through_no_link(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", [{"a": torch.ones(2)}])
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (old / "extra").symlink_to(victim)
    (old / "inner").symlink_to(tmp_path)
    for name in ("extra", "inner/victim"):
        saved = replace(of(victim).files[0], name=name)
        planted(old, UndoRecord("old", "base", (saved,)))
        assert refused(old).code == "CKM777"
    assert victim.read_text() == "mine"


# --- what is refused --------------------------------------------------------------------------


def test_a_file_with_two_names_is_not_changed_in_place(tmp_path: Path) -> None:
    zoo, path = project(tmp_path)
    os.link(path, tmp_path / "backup.pt")
    error = refusal(zoo, path)
    assert error.code == "CKM777"
    assert "2 names" in error.what


def test_a_symbolic_link_stands_for_its_file(tmp_path: Path) -> None:
    zoo, path = project(tmp_path)
    (tmp_path / "sub").mkdir()
    real = path.rename(tmp_path / "sub" / "real.pt")
    path.symlink_to(real)
    before = real.read_bytes()
    change(zoo, path)
    assert path.is_symlink()
    assert real.read_bytes() != before
    assert [p.name for p in (tmp_path / "sub").glob("*.undo-*")] == ["real.pt.undo-base"]
    take_back(path)
    assert real.read_bytes() == before


@pytest.mark.parametrize("moment", ["open", "pwrite", "fsync"])
def test_a_file_that_is_changed_meanwhile_is_an_error_and_keeps_its_new_content(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, path = project(tmp_path)
    other = zoo.save({"a": torch.zeros(4)}, "other.pt")
    content = other.read_bytes()
    fired: list[str] = []

    def replaced(name: str, arguments: tuple[object, ...]) -> None:
        if name == moment and not fired and not str(arguments[0]).endswith(".lock"):
            fired.append(name)
            os.replace(other, path)

    prepared = zoo.prepare(path)
    with locked(path) as lock:
        monkeypatch.setattr(syscalls, "before", replaced)
        with pytest.raises(CkmigrateError) as caught:
            carry_out_in_place(prepared, lock=lock)
    monkeypatch.setattr(syscalls, "before", None)
    assert fired
    assert caught.value.code in ("CKM753", "CKM774")
    assert path.read_bytes() == content


def test_undo_takes_back_only_what_nobody_wrote_since(tmp_path: Path) -> None:
    zoo, path = project(tmp_path)
    change(zoo, path)
    os.utime(path, ns=(0, 0))
    before = snapshot(tmp_path)
    with pytest.raises(StorageError) as caught:
        take_back(path)
    assert caught.value.code == "CKM778"
    assert "old.pt.undo-base: old.pt was written again since" in caught.value.details
    assert snapshot(tmp_path) == before


def test_without_a_backup_there_is_nothing_to_undo(tmp_path: Path) -> None:
    zoo, path = project(tmp_path)
    change(zoo, path, keep=False)
    assert [p.name for p in tmp_path.iterdir() if "undo" in p.name] == []
    with pytest.raises(StorageError) as caught:
        take_back(path)
    assert caught.value.code == "CKM778"
    assert "keeps the old version as NAME.bak-REVISION" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (["base"], "; old.pt.bak-base beside it is an old version"),
        (["1", "2"], "; old.pt.bak-1, old.pt.bak-2 beside it are old versions"),
        (list("12345"), "; old.pt.bak-1, old.pt.bak-2, old.pt.bak-3 and 2 more beside it are"),
    ],
)
def test_where_there_is_nothing_to_undo_the_backups_are_named(
    tmp_path: Path, kept: list[str], told: str
) -> None:
    _, path = project(tmp_path)
    for revision in kept:
        path.with_name(f"old.pt.bak-{revision}").touch()
    path.with_name("other.pt.bak-1").touch()
    with pytest.raises(StorageError) as caught:
        take_back(path)
    assert told in str(caught.value.fix)


def test_mode_and_attributes_stay_and_a_second_record_gets_a_second_name(tmp_path: Path) -> None:
    zoo, path = project(tmp_path)
    path.chmod(0o640)
    change(zoo, path, to="1")
    change(zoo, path, "down", to="base")
    change(zoo, path, to="1")
    assert path.stat().st_mode & 0o777 == 0o640
    names = {p.name for p in tmp_path.glob("*.undo-*")}
    assert "old.pt.undo-base" in names
    assert len(names) == 3


# --- small files ------------------------------------------------------------------------------


def small(root: Path) -> tuple[Path, Patch]:
    root.mkdir()
    for name in ("kept", "goes"):
        (root / name).write_text(name * 3)
    (root / "goes").chmod(0o640)

    def now(name: str) -> FileIdentity:
        return FileIdentity.of((root / name).stat())

    files = (
        rewritten("kept", now("kept"), b"x"),
        removed("goes", now("goes")),
        created("comes", b"new"),
    )
    return root, Patch(files)


def applied(root: Path, patch: Patch, verify: Callable[[], None] = lambda: None) -> None:
    with locked(root) as lock:
        apply(patch, path=root, revision="base", keep=True, verify=verify, lock=lock)


def test_small_files_are_rewritten_created_and_removed_and_come_back(tmp_path: Path) -> None:
    root, patch = small(tmp_path / "dcp")
    before = snapshot(root)
    applied(root, patch)
    assert {name: value[0] for name, value in snapshot(root).items()} == {
        "kept": b"x",
        "comes": b"new",
    }
    take_back(root)
    assert snapshot(root) == before


def test_small_files_come_back_when_the_verification_fails(tmp_path: Path) -> None:
    root, patch = small(tmp_path / "dcp")
    before = snapshot(root)

    def verify() -> None:
        assert not (root / "goes").exists()
        raise StorageError("CKM750", "no")

    with pytest.raises(StorageError, match="no"):
        applied(root, patch, verify)
    assert snapshot(root) == before


def test_a_file_that_should_be_new_and_exists_is_left_alone(tmp_path: Path) -> None:
    root, patch = small(tmp_path / "dcp")
    (root / "comes").write_text("somebody else's")
    before = snapshot(tmp_path)
    with pytest.raises(StorageError) as caught:
        applied(root, patch)
    assert caught.value.code == "CKM753"
    assert snapshot(tmp_path) == before
