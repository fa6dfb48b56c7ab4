"""`ckmigrate revision`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.draft_options import Options
from ckmigrate.cli.files import create
from ckmigrate.cli.options import PATH
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.locking import add_line
from ckmigrate.report.escape import printable
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import read_lock, render_lock
from ckmigrate.revisions.script import read_script
from ckmigrate.revisions.targets import resolve
from ckmigrate.revisions.template import new_revision_id, next_file_name, render
from ckmigrate.text_file import replace_text

__all__ = ["command"]

_RENAME = "You know it: entries, patterns or modules."
_ACCEPT = "Answer beforehand; none only shows the draft."
_AGAINST = "Two checkpoints whose contents are proof: at the head, and of the model; once for each."


def _require_head(revises: tuple[str, ...]) -> None:
    if revises:
        raise UsageError(
            "CKM256",
            "--revises and --autogenerate exclude each other",
            why="the draft is the difference between the head and the model",
            fix="Leave --revises out; where there are two heads, merge them first.",
        )


@click.command("revision", cls=Verb)
@click.option("-m", "--message", required=True, metavar="MSG", help="What changed, in a few words.")
@click.option("--revises", metavar="REV", multiple=True, help="Build on it; two REVs are a merge.")
@click.option("--release", metavar="VERSION", help="First release with checkpoints like this.")
@click.option("--autogenerate", is_flag=True, help="Draft it: what changed from head to model.")
@click.option("--rename", "renames", metavar="'OLD=NEW'", multiple=True, help=_RENAME)
@click.option("--map", "map_file", metavar="FILE", type=PATH, help="Renames and more, as TOML.")
@click.option("--accept", type=click.Choice(["certain", "all", "none"]), help=_ACCEPT)
@click.option("--against", metavar="OLD NEW", nargs=2, type=PATH, multiple=True, help=_AGAINST)
@click.option("--model", metavar="NAME", help="Draft for this one of several configured models.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session,
    message: str,
    revises: tuple[str, ...],
    release: str | None,
    autogenerate: bool,
    **options: Any,
) -> Answer:
    """Add a migration script that follows the head. It contains a todo, which refuses to run until
    you have said what changed.

    With --autogenerate the model is compared with the head, and the script says what became of
    each entry. What is certain, what is a guess and what is ambiguous is shown in one table, with
    one question: accept, edit, none. Without a terminal, what is not certain becomes a todo, and
    the exit code is 1.

    \b
    Example:  ckmigrate revision -m "Split the fused projection" --release 1.2
              ckmigrate revision -m "Merge both" --revises 3f2a --revises 77d0
              ckmigrate revision --autogenerate -m "New head" --rename "fc=head.fc"
    """
    chosen = Options(**options)
    if autogenerate:
        _require_head(revises)
        from ckmigrate.cli.drafting import draft_revision

        return draft_revision(session, message, release, chosen)
    if chosen.given:
        raise UsageError(
            "CKM256",
            f"{chosen.given} belongs to --autogenerate",
            fix="Add --autogenerate, or leave it out.",
        )
    project = session.project()
    history = session.history(project)
    parents = _parents(history, revises)
    revision = new_revision_id()
    body = "pass  # the branches change different entries" if isinstance(parents, tuple) else None
    text = render(message, revision=revision, revises=parents, release=release, body=body)
    path = project.migrations / next_file_name(history, message)
    lock = read_lock(project.lock_path)
    create(path, text)
    files = [path]
    if lock is not None:
        # At once, so that git reports a conflict where another branch adds a revision too.
        replace_text(project.lock_path, render_lock(add_line(lock, read_script(path))))
        files.append(project.lock_path)
    listed = [parents] if isinstance(parents, str) else list(parents or ())
    data = {
        "file": str(path),
        "written": [str(file) for file in files],
        "revision": revision,
        "revises": listed,
        "release": release,
    }
    builds_on = " and ".join(history.label(parent) for parent in listed) or "base"
    names = ", ".join(map(_shown, files))
    return Answer(data, f"wrote {names}: revision {revision}, builds on {builds_on}")


def _parents(history: History, revises: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """The single head, or what was asked for."""
    if not revises:
        return history.require_single_head()
    found = tuple(dict.fromkeys(resolve(history, text) for text in revises))
    if len(found) == 1:
        return found[0]
    named = tuple(revision for revision in found if revision is not None)
    if len(named) < len(found):
        raise UsageError(
            "CKM236",
            "a merge cannot include the base",
            why="every revision comes after the base anyway",
            fix="Name the heads that are to be joined: ckmigrate heads.",
        )
    return named


def _shown(path: Path) -> str:
    try:
        return printable(path.relative_to(Path.cwd()))
    except ValueError:
        return printable(path)
