"""Several files change together: whatever call fails, all are old or all are new."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckmigrate.errors import StorageError
from ckmigrate.execute import syscalls
from ckmigrate.file_set import replace_files


@pytest.fixture(autouse=True)
def no_fault() -> Iterator[None]:
    yield
    syscalls.before = None


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prepared(folder: Path) -> dict[Path, bytes | None]:
    """Three files that change, one that goes, two that are new, one of them in a new folder."""
    for name in ("a", "b", "c", "gone"):
        (folder / name).write_bytes(f"old {name}".encode())
    (folder / "b").chmod(0o640)
    changed: dict[Path, bytes | None] = {folder / name: name.encode() for name in ("a", "b", "c")}
    return {**changed, folder / "new": b"new", folder / "gone": None, folder / "sub" / "x": b""}


def test_every_file_gets_its_content(tmp_path: Path) -> None:
    replace_files(prepared(tmp_path))
    assert content(tmp_path) == {"a": b"a", "b": b"b", "c": b"c", "new": b"new", "x": b""}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    replace_files({tmp_path / "link": b"new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def calls_of(folder: Path) -> int:
    folder.mkdir()
    seen: list[str] = []
    files = prepared(folder)
    syscalls.before = lambda name, _: seen.append(name)
    replace_files(files)
    syscalls.before = None
    return len(seen)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_whatever_call_fails_all_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    total = calls_of(tmp_path / "count")
    assert total > 20
    for failing in range(total):
        folder = tmp_path / str(failing)
        folder.mkdir()
        files = prepared(folder)
        before = content(folder)
        left = iter(range(total))

        def fail(_name: str, _arguments: tuple[object, ...], at: int = failing) -> None:
            if next(left) == at:  # noqa: B023 - used up before the loop goes on
                raise error

        syscalls.before = fail
        with pytest.raises((StorageError, KeyboardInterrupt)):
            replace_files(files)
        syscalls.before = None
        assert content(folder) == before, f"call {failing}"


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as caught:
        replace_files({tmp_path / "folder" / "a": b"", tmp_path / "folder": b"x"})
    assert caught.value.code == "CKM792"
    assert list((tmp_path / "folder").iterdir()) == []
