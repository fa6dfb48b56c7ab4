"""New text files of a project: never over one that exists."""

from __future__ import annotations

from pathlib import Path

from ckmigrate.errors import StorageError

__all__ = ["create", "make_folder"]


def create(path: Path, text: str) -> None:
    """Write a new file; StorageError CKM792 where that fails, CKM793 where the name is taken."""
    try:
        from ckmigrate.text_file import create_text

        create_text(path, text)
    except FileExistsError:
        raise StorageError(
            "CKM793",
            f"{path.name} exists already",
            where=str(path),
            why="ckmigrate writes this file once and never replaces it",
            fix="Move it away first, if it is not needed any more.",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """A folder and those above it, if need be; StorageError CKM792."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        "CKM792",
        f"cannot write {path.name}: {error.strerror or error}",
        where=str(path),
        fix="Check the folder, its permissions and the space on its disk.",
    )
