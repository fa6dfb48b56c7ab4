"""`ckmigrate heads`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import revision_text

__all__ = ["command"]


@click.command("heads", cls=Verb)
@pass_session
def command(session: Session) -> Answer:
    """Show the newest revision; more than one means that branches wait to be merged.

    \b
    Example:  ckmigrate heads
    """
    history = session.history(session.project())
    lines = [
        f"{revision_text(history, head)}  {history.script(head).message}" for head in history.heads
    ]
    data = {"heads": [script_data(history, history.script(head)) for head in history.heads]}
    return Answer(data, "\n".join(lines) or "base: there are no revisions yet")
