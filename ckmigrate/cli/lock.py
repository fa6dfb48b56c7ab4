"""`ckmigrate lock`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.locking import released, stale_files, write_lock_and_snapshots
from ckmigrate.opened import replays
from ckmigrate.project import Project, parse_params
from ckmigrate.report.escape import printable
from ckmigrate.report.lock import lock_changes
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import parse_lock, read_lock
from ckmigrate.revisions.targets import resolve

__all__ = ["command"]


@click.command("lock", cls=Verb)
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit 1 if out of date.")
@click.option(
    "--allow-edited",
    "allowed",
    metavar="REV",
    multiple=True,
    help="Record a released script although it was edited, or its line is gone.",
)
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session, only_check: bool, allowed: tuple[str, ...], params: tuple[str, ...]
) -> Answer:
    """Record what the migrations do: a line per revision in history.lock, and the schema of each
    model at the head. Run it when a script is finished, and commit both with the script.

    `ckmigrate check` compares the scripts with the record. A script that declares a release, or
    comes before one that does, must not be edited any more: checkpoints went through it. That is
    refused with exit code 3, unless --allow-edited names the revision. So is one whose line is gone
    from the lock, a lock that cannot be read, and one with git's conflict markers, which
    `ckmigrate rebase` settles.

    \b
    Example:  ckmigrate lock
              ckmigrate lock --check
    """
    project = session.project()
    is_first = read_lock(project.lock_path) is None
    history = session.history(project)
    known = replays(project, history, parse_params(params))
    before = _text(project.lock_path)
    if only_check:
        stale = tuple(stale_files(project, history, known))
    else:
        edited = [found for text in allowed if (found := resolve(history, text)) is not None]
        stale = write_lock_and_snapshots(project, history, known, allow_edited=edited)
        _note_uncompared(session, history, is_first=is_first)
    return _answer(project, history, stale, before, only_check=only_check)


def _note_uncompared(session: Session, history: History, *, is_first: bool) -> None:
    count = len(released(history))
    if is_first and count:
        scripts = f"{counted(count, 'released script')} {'is' if count == 1 else 'are'}"
        session.note(
            f"warning: nothing was recorded before; {scripts} recorded without comparison, so that "
            "an edit since the release is not noticed"
        )


def _answer(
    project: Project,
    history: History,
    stale: Sequence[Path],
    before: str | None,
    *,
    only_check: bool,
) -> Answer:
    word = "out of date" if only_check else "wrote"
    lines = [f"{word}: {_shown(project, path)}" for path in stale]
    changes = []
    if project.lock_path in stale and not only_check:
        lock = parse_lock(_text(project.lock_path) or "", str(project.lock_path))
        changes = lock_changes(history, before, lock)
    fix = ["  fix: ckmigrate lock"] if stale and only_check else []
    text = "\n".join([*lines, *(f"  {change}" for change in changes), *fix])
    data = {"stale" if only_check else "written": [str(path) for path in stale], "changes": changes}
    done = "ok: history.lock and the head snapshots are up to date"
    return Answer(data, text or done, 1 if stale and only_check else 0)


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return None


def _shown(project: Project, path: Path) -> str:
    shown = path.relative_to(project.root) if path.is_relative_to(project.root) else path
    return printable(shown)
