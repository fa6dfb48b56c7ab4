"""`ckmigrate history`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import history_lines

__all__ = ["command"]


@click.command("history", cls=Verb)
@click.option("--graph", is_flag=True, help="Draw the branches.")
@pass_session
def command(session: Session, graph: bool) -> Answer:
    """List the revisions, newest first. The scripts are read, not run.

    \b
    Example:  ckmigrate history --graph
    """
    history = session.history(session.project())
    data = {"revisions": [script_data(history, script) for script in reversed(history.order)]}
    lines = history_lines(history, graph=graph)
    return Answer(data, "\n".join(lines) or "base: there are no revisions yet")
