"""`ckmigrate show`."""

from __future__ import annotations

import shutil

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import HistoryError, UsageError
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.report.effect import Effect, effect_data, effect_lines, effects, way_back
from ckmigrate.report.json import script_data
from ckmigrate.report.revisions import script_lines, source_lines
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.lock import LockLine, read_lock
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.targets import resolve

__all__ = ["command"]


@click.command("show", cls=Verb)
@click.argument("revision", metavar="REV")
@click.option("--source", is_flag=True, help="Show the text of the script too.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(session: Session, revision: str, source: bool, params: tuple[str, ...]) -> Answer:
    """Show one revision: what it declares, its neighbours, what the lock records of it, whether it
    can be undone, and what its operations do to the committed snapshots. For that the scripts run
    on names and shapes, as for `check`; no torch of ours.

    REV is head, an id or its beginning, a file number, a slug, or REV-1. -v lists every group of
    entries.

    \b
    Example:  ckmigrate show head
              ckmigrate show 4 --source
    """
    project = session.project()
    history = session.history(project)
    script = _script(history, revision)
    known = replays(project, history, make_request(params=params).params)
    found = effects(history, script, known)
    recorded = _recorded(session, project, script)
    if not session.is_text:
        return Answer(_data(history, script, found, recorded))
    lines = script_lines(history, script, back=way_back(script, found)[1], recorded=recorded)
    width = max(60, min(120, shutil.get_terminal_size((80, 24)).columns))
    lines += ["", *effect_lines(found, width=width, full=session.verbose > 0)] if found else []
    lines += (
        [] if found else ["", "no base snapshot: what it does to names and shapes is not known"]
    )
    lines += ["", *source_lines(script)] if source else []
    return Answer(text="\n".join(lines))


def _script(history: History, revision: str) -> Script:
    found = resolve(history, revision)
    if found is None:
        raise UsageError(
            "CKM235",
            f"'{revision}' is the base: the state before the first script",
            fix="`ckmigrate history` lists the revisions that have a script.",
        )
    return history.script(found)


def _recorded(session: Session, project: Project, script: Script) -> LockLine | None:
    try:
        lock = read_lock(project.lock_path)
    except HistoryError as error:
        session.note(f"warning: {error.what}: {error.why}; nothing of it is shown")
        return None
    return None if lock is None else lock.line(script.id)


def _data(
    history: History, script: Script, found: tuple[Effect, ...], recorded: LockLine | None
) -> dict[str, object]:
    reversible, why = way_back(script, found)
    return {
        **script_data(history, script),
        "source": script.source,
        "digest": list(recorded.digests) if recorded else None,
        "signature": list(recorded.signatures) if recorded else None,
        "reversible": reversible,
        "way_back": list(why),
        "effects": [effect_data(effect) for effect in found],
    }
