"""Where results go: decided and checked before anything is read for long."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.cli.batch import require_different
from ckmigrate.cli.files import make_folder
from ckmigrate.errors import UsageError

if TYPE_CHECKING:
    from ckmigrate.execute.preflight import Destination

__all__ = ["Placement", "place"]

_WAYS = (
    "-o OUT         write a new file; the source is only read",
    "--out-dir DIR  the same for several files, under their names",
    "--in-place     replace the file; the old version stays as NAME.bak-REVISION",
)
_MORE = {"downgrade": " --to REV", "stamp": " REV"}
"""What a verb needs besides the file, for an example."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The output options of a command; exactly one of the first three is given."""

    out: Path | None
    out_dir: Path | None
    in_place: bool
    backup: bool
    overwrite: bool

    def path_for(self, source: Path) -> Path:
        """The file that the result of `source` gets."""
        if self.out is not None:
            return self.out
        return self.out_dir / source.name if self.out_dir is not None else source

    def destination(self, source: Path, revision: str | None) -> Destination:
        """The destination of a source that is at `revision`."""
        from ckmigrate.execute.preflight import Destination, backup_path

        path = self.path_for(source)
        keeps = self.in_place and self.backup
        return Destination(
            path,
            in_place=self.in_place,
            overwrite=self.overwrite,
            backup=backup_path(path, revision or "base") if keeps else None,
        )

    def check(self, source: Path) -> None:
        """Refuse an output that cannot be written, before the work; StorageError CKM75x."""
        from ckmigrate.execute.preflight import Destination, preflight

        if self.out_dir is not None and not self.out_dir.exists():
            preflight(Destination(self.out_dir), 0)
        else:
            preflight(self.destination(source, None), 0, source=source)

    def make_folder(self) -> None:
        """Make the folder of --out-dir, for the first result; StorageError CKM792."""
        if self.out_dir is not None and not self.out_dir.exists():
            make_folder(self.out_dir)


def place(
    paths: Sequence[Path],
    *,
    out: Path | None,
    out_dir: Path | None,
    in_place: bool,
    no_backup: bool,
    overwrite: bool,
    verb: str,
) -> Placement:
    """The placement that the options ask for.

    UsageError: CKM230 none or several of the three ways, CKM232 -o for several files or for a
    folder, CKM233 an option that does not go with the way, CKM234 two results for one file.
    """
    given = [bool(out), bool(out_dir), in_place]
    if sum(given) != 1:
        raise _no_way(verb, paths[0], sum(given))
    _check_options(in_place=in_place, no_backup=no_backup, overwrite=overwrite)
    if out is not None:
        _check_out(out, paths)
    placement = Placement(out, out_dir, in_place, not no_backup, overwrite)
    why = "each result needs a name of its own"
    require_different(paths, lambda path: placement.path_for(path).resolve(), why)
    return placement


def _no_way(verb: str, path: Path, given: int) -> UsageError:
    what = "say where the result goes" if not given else "the result can go to one place only"
    return UsageError(
        "CKM230",
        what,
        details=_WAYS,
        why="ckmigrate never replaces a checkpoint unasked" if not given else None,
        fix=f"For example: ckmigrate {verb} {shlex.quote(str(path))}{_MORE.get(verb, '')} "
        f"-o {shlex.quote(_free_name(path))}",
    )


def _free_name(path: Path) -> str:
    """An output for an example: not the source, which would be refused."""
    name = f"new{path.suffix}"
    return name if path.name != name else f"newer{path.suffix}"


def _check_options(*, in_place: bool, no_backup: bool, overwrite: bool) -> None:
    if no_backup and not in_place:
        what, fix = "--no-backup goes with --in-place only", "A new file replaces nothing."
        raise UsageError("CKM233", what, fix=fix)
    if overwrite and in_place:
        what, fix = "--overwrite does not go with --in-place", "--in-place replaces the source."
        raise UsageError("CKM233", what, fix=fix)


def _check_out(out: Path, paths: Sequence[Path]) -> None:
    if len(paths) > 1:
        what = f"-o names one file, and there are {len(paths)} checkpoints"
        raise UsageError("CKM232", what, fix="Use --out-dir DIR, or --in-place.")
    if out.is_dir():
        what = f"{out} is a folder"
        raise UsageError("CKM232", what, fix=f"Use --out-dir {out}, or name a file in it.")
