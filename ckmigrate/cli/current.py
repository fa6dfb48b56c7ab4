"""`ckmigrate current`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.collect import Found
from ckmigrate.cli.options import make_request, paths_argument, reading_options
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.identify import Identity
from ckmigrate.migrate import identify_opened, open_weights, replays
from ckmigrate.report.escape import printable
from ckmigrate.report.json import identity_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History

__all__ = ["command"]


@click.command("current", cls=Verb)
@paths_argument
@reading_options
@pass_session
def command(session: Session, paths: tuple[Path, ...], **reading: Any) -> Answer:
    """Show which revision each checkpoint is at, and how that is known: from its tag, from a
    release number in it, or from the names and shapes of its tensors. Only headers are read.

    \b
    Example:  ckmigrate current runs/*.ckpt
    """
    project = session.project()
    history = session.history(project)
    request = make_request(**reading)
    known = replays(project, history, request.params)

    def one(found: Found, _: Watch) -> Answer:
        opened = open_weights(found.path, project, request)
        identity = identify_opened(opened, project, history, request, known=known)
        return Answer(identity_data(history, identity), _line(found.path, history, identity))

    return each(session, paths, one)


def _line(path: Path, history: History, identity: Identity) -> str:
    found = revision_text(history, identity.revision)
    place = _place(history, identity.revision)
    return f"{printable(path)}: {found} — by {printable(identity.evidence)}{place}"


def _place(history: History, revision: str | None) -> str:
    if (revision,) == history.heads or (revision is None and not len(history)):
        return " (head)"
    if len(history.heads) != 1 or revision not in (None, *history.ancestors(history.heads[0])):
        return ""
    behind = len(history.path_up(revision, history.heads[0]))
    return f" ({counted(behind, 'migration')} behind the head)"
