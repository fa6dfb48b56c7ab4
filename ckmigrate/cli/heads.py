"""`ckmigrate heads`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.report.escape import printable
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import Script

__all__ = ["command"]


@click.command("heads", cls=Verb)
@pass_session
def command(session: Session) -> Answer:
    """Show the newest revision. More than one means that branches wait to be joined, by `ckmigrate
    rebase` or `ckmigrate merge`; then each is listed with what it adds since they parted, and with
    the releases among that, which must not be moved.

    \b
    Example:  ckmigrate heads
    """
    history = session.history(session.project())
    lines: list[str] = []
    found: list[dict[str, object]] = []
    for head in history.heads:
        added = _added(history, head)
        found.append({**script_data(history, history.script(head)), "adds": [s.id for s in added]})
        lines.append(f"{revision_text(history, head)}  {printable(history.script(head).message)}")
        if len(history.heads) > 1:
            lines.append(f"  adds {', '.join(map(_named, added))}")
    if len(history.heads) > 1:
        shared = history.shared(history.heads)
        lines.append(f"they part after {revision_text(history, shared[-1].id if shared else None)}")
    return Answer({"heads": found}, "\n".join(lines) or "base: there are no revisions yet")


def _added(history: History, head: str) -> tuple[Script, ...]:
    """What a head has and not all heads have, oldest first."""
    shared = {script.id for script in history.shared(history.heads)}
    if len(history.heads) == 1:
        return ()
    return tuple(script for script in history.path_up(None, head) if script.id not in shared)


def _named(script: Script) -> str:
    release = f" [{printable(script.release)}]" if script.release else ""
    return f"{printable(script.path.stem)}{release}"
