"""`ckmigrate history`."""

from __future__ import annotations

import shutil

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import graph_lines, history_lines

__all__ = ["command"]


@click.command("history", cls=Verb)
@click.option("--graph", is_flag=True, help="Draw the branches.")
@pass_session
def command(session: Session, graph: bool) -> Answer:
    """List the revisions, newest first. The scripts are read, not run.

    With --graph as `git log --graph` draws commits: `*` is a revision, with its release in
    brackets, and `o` is the base. On a terminal, lines are cut to its width.

    \b
    Example:  ckmigrate history --graph
    """
    history = session.history(session.project())
    data = {"revisions": [script_data(history, script) for script in reversed(history.order)]}
    lines = graph_lines(history, width=_width(session)) if graph else history_lines(history)
    return Answer(data, "\n".join(lines) or "base: there are no revisions yet")


def _width(session: Session) -> int | None:
    """The columns of the terminal; None where the answer goes elsewhere."""
    if session.stdout is None or not session.stdout.isatty():
        return None
    return shutil.get_terminal_size((80, 24)).columns
