"""Where results go: decided and checked before anything is read for long."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.cli.batch import require_different
from ckmigrate.cli.collect import Collection, Found
from ckmigrate.cli.files import make_folder
from ckmigrate.errors import UsageError

if TYPE_CHECKING:
    from ckmigrate.execute.preflight import Destination

__all__ = ["Placement", "check_layout", "place"]

_WAYS = (
    "-o OUT         write a new file or folder; the source is only read",
    "--out-dir DIR  the same for several files, under their names",
    "--in-place     replace the file; the old version stays as NAME.bak-REVISION",
)


_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """The output options of a command; exactly one of the first three is given.

    folder  the result is a folder of shards, whatever the source is
    fast    in place, and by changing headers only
    """

    out: Path | None
    out_dir: Path | None
    in_place: bool
    backup: bool
    overwrite: bool
    folder: bool = False
    fast: bool = False

    def path_for(self, source: Found) -> Path:
        """The file or folder that the result of `source` gets."""
        from ckmigrate.formats.folder_names import folder_of

        if self.out is not None:
            return self.out
        return folder_of(source.path) if self.out_dir is None else self.out_dir / source.relative

    def title(self, source: Found) -> str:
        """A short name for the result of `source`."""
        return str(source.relative) if self.out is None else self.out.name

    def destination(self, source: Found, revision: str | None) -> Destination:
        """The destination of a source that is at `revision`."""
        from ckmigrate.execute.preflight import Destination, backup_path
        from ckmigrate.formats.folder_names import folder_of
        from ckmigrate.output import becomes_folder

        path = self.path_for(source)
        keeps = self.in_place and self.backup
        folder = becomes_folder(
            path,
            source_is_folder=folder_of(source.path).is_dir(),
            in_place=self.in_place,
            wanted=self.folder,
        )
        return Destination(
            path,
            in_place=self.in_place,
            folder=folder,
            overwrite=self.overwrite,
            backup=backup_path(path, revision or "base") if keeps else None,
        )

    def check(self, source: Found) -> None:
        """Refuse an output that cannot be written, before the work; StorageError CKM75x.

        A source that is not there says so when it is read."""
        if self.in_place and not source.path.exists():
            return
        from ckmigrate.execute.preflight import Destination, preflight

        missing = self._missing_folders(source)
        if missing:
            preflight(Destination(missing[-1]), 0)
        else:
            preflight(self.destination(source, None), 0, source=source.path)

    def make_folder(self, source: Found) -> None:
        """Make the folder that the result of `source` goes to; StorageError CKM792."""
        missing = self._missing_folders(source)
        if missing:
            make_folder(missing[0])

    def _missing_folders(self, source: Found) -> list[Path]:
        """Those of --out-dir and below it that are to be made, the innermost first."""
        if self.out_dir is None:
            return []
        folders = [self.out_dir / inside for inside in source.relative.parents]
        return [folder for folder in folders if not folder.exists()]


def place(
    collection: Collection,
    *,
    out: str | None,
    out_dir: Path | None,
    in_place: bool,
    no_backup: bool,
    overwrite: bool,
    verb: str,
    revision: str | None = None,
    sharded: bool = False,
    fast: bool = False,
) -> Placement:
    """The placement that the options ask for; `sharded` says that an option asks for a folder, and
    `revision` is what was typed, for the example in an error.

    UsageError: CKM230 none or several of the three ways, CKM232 -o for several files or for a
    folder, CKM233 an option that does not go with the way, CKM234 two results for one file.
    """
    given = [bool(out), bool(out_dir), in_place]
    paths = [found.path for found in collection.found]
    if sum(given) != 1:
        raise _no_way(verb, paths, revision, sum(given))
    _check_options(in_place=in_place, no_backup=no_backup, overwrite=overwrite, fast=fast)
    path = None if out is None else Path(out)
    folder = sharded or bool(out and out.endswith("/"))
    if path is not None:
        _check_out(path, paths, folder=folder)
    if folder:
        _check_folder(path, paths, in_place=in_place)
    placement = Placement(path, out_dir, in_place, not no_backup, overwrite, folder, fast)
    why = "each result needs a name of its own"
    fix = "Give each file once; to keep the folders that they are in, give the folder above them "
    fix += "or a pattern in quotes, such as 'runs/*/last.ckpt'."
    require_different(collection.found, lambda found: placement.path_for(found).resolve(), why, fix)
    return placement


def _no_way(verb: str, paths: Sequence[Path], revision: str | None, given: int) -> UsageError:
    what = "say where the result goes" if not given else "the result can go to one place only"
    return UsageError(
        "CKM230",
        what,
        details=_WAYS,
        why="ckmigrate never replaces a checkpoint unasked" if not given else None,
        fix=_example(verb, paths, revision),
    )


def _example(verb: str, paths: Sequence[Path], revision: str | None) -> str:
    """The command as it was typed, with a place; a second path that is no file was meant as one."""
    *others, last = paths
    is_place = len(others) == 1 and others[0].exists() and not last.exists()
    sources = others if is_place else paths
    if is_place:
        place = f"-o {shlex.quote(str(last))}"
    elif len(paths) > 1:
        place = "--out-dir DIR"
    else:
        place = f"-o {shlex.quote(_free_name(last))}"
    quoted = [shlex.quote(str(path)) for path in sources[:_MOST_SHOWN]]
    quoted += ["…"] if len(sources) > _MOST_SHOWN else []
    option = [] if verb == "stamp" else ["--to"]
    at = [*option, shlex.quote(revision)] if revision is not None else []
    word = "Did you mean" if is_place else "For example"
    return f"{word}: ckmigrate {' '.join([verb, *quoted, *at, place])}"


def _free_name(path: Path) -> str:
    """An output for an example: not the source, which would be refused."""
    name = f"new{path.suffix}"
    return name if path.name != name else f"newer{path.suffix}"


def _check_options(*, in_place: bool, no_backup: bool, overwrite: bool, fast: bool) -> None:
    if fast and not in_place:
        what = "--fast goes with --in-place only"
        raise UsageError("CKM233", what, fix="It changes the file itself and writes no other.")
    if no_backup and not in_place:
        what, fix = "--no-backup goes with --in-place only", "A new file replaces nothing."
        raise UsageError("CKM233", what, fix=fix)
    if overwrite and in_place:
        what, fix = "--overwrite does not go with --in-place", "--in-place replaces the source."
        raise UsageError("CKM233", what, fix=fix)


def _check_folder(out: Path | None, paths: Sequence[Path], *, in_place: bool) -> None:
    """UsageError CKM233 where a folder would have the name of a file."""
    from ckmigrate.formats.folder_names import folder_of
    from ckmigrate.output import is_file_name

    files = [path for path in paths if not folder_of(path).is_dir()] if in_place else []
    if files:
        what = f"{files[0]} is a file, and the result would be a folder"
        raise UsageError("CKM233", what, fix="Write a new folder: -o NAME/")
    if out is not None and is_file_name(out):
        what = f"{out.name} is the name of a file, and the result is a folder"
        raise UsageError("CKM233", what, fix=f"For example: -o {out.with_suffix('')}/")


def check_layout(max_shard_size: str | None, to_format: str | None) -> None:
    """UsageError CKM233 where two layouts of the result are asked for."""
    if max_shard_size is not None and to_format is not None:
        what = f"--max-shard-size does not go with --to-format {to_format}"
        fix = "It is about folders of safetensors or .bin shards: leave one of the two out."
        raise UsageError("CKM233", what, fix=fix)


def _check_out(out: Path, paths: Sequence[Path], *, folder: bool) -> None:
    if len(paths) > 1:
        what = f"-o names one file, and there are {len(paths)} checkpoints"
        raise UsageError("CKM232", what, fix="Use --out-dir DIR, or --in-place.")
    from ckmigrate.formats.folder_names import folder_of

    if out.is_dir() and not folder and not folder_of(paths[0]).is_dir():
        what = f"the output {out} is a folder"
        raise UsageError("CKM232", what, fix=f"Use --out-dir {out}, or name a file in it.")
