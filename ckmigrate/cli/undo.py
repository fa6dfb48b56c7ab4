"""`ckmigrate undo`."""

from __future__ import annotations

from pathlib import Path

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.collect import Found
from ckmigrate.cli.options import paths_argument
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import StorageError
from ckmigrate.execute.lock import locked
from ckmigrate.execute.undo import settle, undo_newest
from ckmigrate.formats.folder_names import folder_of
from ckmigrate.report.undone import undone_data, undone_text

__all__ = ["command"]


@click.command("undo", cls=Verb)
@paths_argument
@pass_session
def command(session: Session, paths: tuple[Path, ...]) -> Answer:
    """Take the newest change of `--in-place --fast` back, to the last byte: one that a crash has
    cut off, or else the one that made the checkpoint what it is now. That needs the undo record
    NAME.undo-REVISION beside it, and a checkpoint that nobody wrote since; several changes are
    taken back one after the other. No project and no script is needed.

    \b
    Example:  ckmigrate undo model.safetensors
    """
    return each(session, paths, _undo)


def _undo(found: Found, _: Watch) -> Answer:
    path = found.path
    if not path.exists():
        what, fix = f"{path.name or path} does not exist", "Check the path."
        raise StorageError("CKM706", what, where=str(path), fix=fix)
    with locked(folder_of(path)) as lock:
        undone = settle(lock.path) or undo_newest(lock.path)
    return Answer(undone_data(undone), undone_text(path, undone))
