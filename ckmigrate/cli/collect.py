"""Which checkpoints the paths of a command mean.

    a file, a folder of weights      itself
    any other folder                 every checkpoint below it, in natural order
    a pattern with * ? [] or **      what fits it, where nothing has that very name

A search passes over what is no checkpoint of its own (backups, temporaries, hidden files, files of
training state) and counts it, and does not follow links to folders.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ckmigrate.errors import StorageError
from ckmigrate.formats.open_checkpoint import is_checkpoint_folder
from ckmigrate.names.order import natural_key
from ckmigrate.report.units import counted

__all__ = ["SUFFIXES", "Collection", "Found", "collect", "size_of"]

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""What a search takes for a checkpoint; a file that is named may be called anything."""

_MAGIC = re.compile(r"[*?\[]")
_BACKUP = re.compile(r".+\.(bak|undo)-[0-9A-Za-z_-]+")
_STATE = re.compile(
    r"optimizer|scheduler\.|scaler\.|rng_state|random_states|training_args\.|.*optim_states\."
)
_TEMPORARY = ".ckmigrate-"
_KINDS = {
    "backups": ("backup", "backups"),
    "temporaries": ("temporary file", "temporary files"),
    "hidden": ("hidden file", "hidden files"),
    "training_state": ("file of training state", "files of training state"),
    "links": ("link to a folder", "links to folders"),
    "results": ("folder of results", "folders of results"),
    "second_names": ("second name of a checkpoint", "second names of checkpoints"),
}
"""What a search passes over, for one and for several."""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint, and its place under the folder or the pattern by which it was found: what
    --out-dir keeps. Of a checkpoint that was named, that is its name."""

    path: Path
    relative: Path


@dataclass(frozen=True, slots=True)
class Collection:
    """The checkpoints of a command.

    skipped   how many of each kind a search passed over: {"backups": 2}
    searched  whether a folder was searched or a pattern was expanded
    """

    found: tuple[Found, ...]
    skipped: Mapping[str, int]
    searched: bool

    @property
    def is_batch(self) -> bool:
        return self.searched or len(self.found) > 1

    @property
    def remark(self) -> str | None:
        """What was passed over, in words; None where nothing was."""
        if not self.skipped:
            return None
        kinds = [counted(count, *_KINDS[kind]) for kind, count in self.skipped.items()]
        return f"passed over: {', '.join(kinds)}"


def collect(
    paths: Sequence[Path], *, leave_out: Path | None = None, unique: bool = False
) -> Collection:
    """The checkpoints that the paths mean, in their order; each search in natural order.

    leave_out  a folder that searches do not enter: the one that the results go to
    unique     a search gives a file under one of its names only: for work in place

    A path that does not exist stays; to read it will say so. StorageError CKM706 (nothing fits a
    pattern), CKM707 (no checkpoint in a folder, or a folder that cannot be searched).
    """
    search = _Search(None if leave_out is None else leave_out.resolve())
    found = [one for path in paths for one in search.of(path)]
    if unique:
        found = list(search.without_second_names(found))
    return Collection(tuple(found), search.skipped, search.searched)


def size_of(path: Path) -> int:
    """The bytes of a checkpoint, be it a folder; 0 where they cannot be told."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:
        return 0


@dataclass(slots=True)
class _Search:
    leave_out: Path | None
    passed: dict[Path, str] = field(default_factory=dict)
    searched: bool = False
    by_search: set[Path] = field(default_factory=set)

    @property
    def skipped(self) -> dict[str, int]:
        return dict(sorted(Counter(self.passed.values()).items()))

    def of(self, path: Path) -> list[Found]:
        """What one path means."""
        if os.path.isdir(path) and not self._is_checkpoint(path):
            base, hits = path, self._below(path)
        elif _MAGIC.search(str(path)) and not os.path.lexists(path):
            base, parts = _split(path)
            hits = self._fitting(base, parts)
        else:
            return [Found(path, Path(_name_of(path)))]
        self.searched = True
        found = [Found(hit, _relative(hit, base)) for hit in dict.fromkeys(hits)]
        self.by_search.update(one.path for one in found)
        return found or self._nothing(path)

    def without_second_names(self, found: Sequence[Found]) -> Iterator[Found]:
        """Of searched files that are one file under several names, the one that is no link."""
        first: dict[Path, Path] = {}
        for one in sorted(found, key=lambda one: one.path.is_symlink()):
            first.setdefault(one.path.resolve(), one.path)
        for one in found:
            if one.path in self.by_search and first[one.path.resolve()] != one.path:
                self.passed[one.path] = "second_names"
            else:
                yield one

    def _below(self, root: Path) -> Iterator[Path]:
        """The checkpoints in a folder, or the folder itself where it is one."""
        waiting = [root]
        while waiting:
            path = waiting.pop()
            if not os.path.isdir(path) or self._is_checkpoint(path):
                yield path
            else:
                inside = [Path(entry) for entry in self._entries(path) if self._takes(entry)]
                waiting.extend(reversed(inside))

    def _fitting(self, base: Path, parts: Sequence[str]) -> Iterator[Path]:
        """What a pattern means: each match as if it had been named, files of other kinds left out
        where the pattern does not say which kind it wants."""
        here: Iterable[Path] = [base]
        for part in parts:
            here = list(dict.fromkeys(hit for path in here for hit in self._step(path, part)))
        says_which = bool(parts[-1].strip("*"))
        for hit in here:
            if os.path.isdir(hit):
                yield from self._below(hit)
            elif self._takes_file(hit, any_kind=says_which):
                yield hit

    def _step(self, folder: Path, part: str) -> Iterator[Path]:
        if part == "**":
            yield from self._folders(folder)
        elif not _MAGIC.search(part):
            yield from [folder / part] if os.path.lexists(folder / part) else []
        elif os.path.isdir(folder):
            for entry in self._entries(folder):
                hides = entry.name.startswith(".") and not part.startswith(".")
                is_folder = entry.is_dir(follow_symlinks=True)
                if hides or not fnmatchcase(entry.name, part):
                    continue
                # Which files are wanted is asked of the last part only.
                if not is_folder or self._takes(entry):
                    yield Path(entry)

    def _folders(self, root: Path) -> Iterator[Path]:
        """A folder and all below it."""
        waiting = [root] if os.path.isdir(root) else []
        while waiting:
            path = waiting.pop()
            yield path
            inside = [entry for entry in self._entries(path) if entry.is_dir()]
            waiting.extend(reversed([Path(entry) for entry in inside if self._takes(entry)]))

    def _takes(self, entry: os.DirEntry[str]) -> bool:
        """Whether a search goes on with what it found in a folder; what it passes over counts."""
        if not entry.is_dir():
            return self._takes_file(Path(entry))
        kind = _kind(entry.name)
        if entry.is_symlink():
            kind = "links"
        elif self.leave_out is not None and Path(entry).resolve() == self.leave_out:
            kind = "results"
        elif kind is None and entry.name.startswith("."):
            return False
        return self._passes(Path(entry), kind)

    def _takes_file(self, path: Path, *, any_kind: bool = False) -> bool:
        kind = _kind(path.name)
        if kind is None and not any_kind and not path.name.endswith(SUFFIXES):
            return False
        if kind is None and path.name.startswith(".") and not any_kind:
            kind = "hidden"
        if kind is None and _STATE.match(path.name):
            kind = "training_state"
        return self._passes(path, kind)

    def _passes(self, path: Path, kind: str | None) -> bool:
        if kind is not None:
            self.passed[path] = kind
        return kind is None

    def _is_checkpoint(self, folder: Path) -> bool:
        try:
            return is_checkpoint_folder(os.listdir(folder))
        except OSError as error:
            raise _unsearchable(folder, error) from error

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            raise _unsearchable(folder, error) from error

    def _nothing(self, path: Path) -> list[Found]:
        """CKM706 or CKM707 with what was looked for."""
        is_folder = os.path.isdir(path)
        passed = Collection((), self.skipped, True).remark
        raise StorageError(
            "CKM707" if is_folder else "CKM706",
            f"{path} is a folder without a checkpoint" if is_folder else f"nothing fits {path}",
            where=str(path),
            details=() if passed is None else (passed,),
            why=f"looked for *{', *'.join(SUFFIXES)} and for folders of weights (with an index of "
            "shards, a model.safetensors, or *.distcp files), in all folders below"
            if is_folder
            else "no file has this name, and as a pattern it fits no checkpoint",
            fix="Give a checkpoint file, a folder of weights, or a folder that they are in.",
        )


def _kind(name: str) -> str | None:
    """What of ours a name belongs to."""
    if name.startswith(_TEMPORARY):
        return "temporaries"
    return "backups" if _BACKUP.fullmatch(name) else None


def _split(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern starts in, and the rest."""
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    return Path(*parts[:fixed]), parts[fixed:]


def _name_of(path: Path) -> str:
    from ckmigrate.formats.folder_names import folder_of

    root = folder_of(path)
    return root.name if root.name not in ("", "..") else root.resolve().name


def _relative(hit: Path, base: Path) -> Path:
    from ckmigrate.formats.folder_names import folder_of

    inside = folder_of(hit).relative_to(base)
    return inside if inside.name else Path(_name_of(hit))


def _unsearchable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        "CKM707",
        f"cannot read the folder {folder.name or folder}: {error.strerror}",
        where=str(folder),
        why="checkpoints in it would be left out in silence",
        fix="Ask for permission to enter and list it, or name the checkpoints.",
    )
