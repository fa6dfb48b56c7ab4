"""`ckmigrate show`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import script_text
from ckmigrate.revisions.targets import resolve

__all__ = ["command"]


@click.command("show", cls=Verb)
@click.argument("revision", metavar="REV")
@pass_session
def command(session: Session, revision: str) -> Answer:
    """Show one revision: what it declares, its neighbours, its text.

    REV is head, an id or its beginning, a file number, a slug, or REV-1.

    \b
    Example:  ckmigrate show head
    """
    history = session.history(session.project())
    found = resolve(history, revision)
    if found is None:
        raise UsageError(
            "CKM235",
            f"'{revision}' is the base: the state before the first script",
            fix="`ckmigrate history` lists the revisions that have a script.",
        )
    script = history.script(found)
    data = {**script_data(history, script), "source": script.source}
    return Answer(data, script_text(history, script))
