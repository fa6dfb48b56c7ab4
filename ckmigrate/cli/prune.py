"""`ckmigrate prune`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request
from ckmigrate.cli.record import with_record
from ckmigrate.cli.session import Answer, Session
from ckmigrate.file_set import replace_files
from ckmigrate.migrate import replays
from ckmigrate.report.escape import printable
from ckmigrate.report.units import counted
from ckmigrate.revisions.lock import read_lock
from ckmigrate.squash.prune import Prune, plan_prune, pruned

__all__ = ["command"]


@click.command("prune", cls=Verb)
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option("--force", is_flag=True, help="Also where git does not keep the scripts.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(session: Session, dry_run: bool, force: bool, params: tuple[str, ...]) -> Answer:
    """Remove the scripts that squashed ones replace, after proving once more that they do the same.
    From then on a checkpoint inside the stretch is refused, and the error names the version of the
    project that could still upgrade it.

    \b
    Example:  ckmigrate prune --dry-run
    """
    project = session.project()
    # What is wrong with the lock has to be said before a script is gone.
    read_lock(project.lock_path)
    history = session.history(project)
    given = make_request(params=params).params
    known = replays(project, history, given)
    values = {**project.params, **given}
    # An outer squash swallows what an inner one stands for, so each script goes once.
    found = [
        plan_prune(project, history, squash, known, values, force=force)
        for squash in history.squashed.values()
    ]
    if found and not dry_run:
        scripts = {path: data for prune in found for path, data in prune.files.items()}
        squashed = [prune.squash.id for prune in found]
        files = with_record(project, pruned(history, found), scripts, given, allow_edited=squashed)
        replace_files(files, folder=project.migrations)
    return _answer(found, is_done=not dry_run)


def _answer(found: list[Prune], *, is_done: bool) -> Answer:
    data = {
        "pruned": [
            {
                "file": str(prune.squash.path),
                "revision": prune.squash.id,
                "removed": [str(script.path) for script in prune.removed],
                "record": dict(prune.record),
            }
            for prune in found
        ],
        "written": is_done,
    }
    done = "removed" if is_done else "would remove"
    lines = [line for prune in found for line in _lines(prune, done)]
    return Answer(data, "\n".join(lines) or "nothing to prune: no squashed script has originals")


def _lines(prune: Prune, done: str) -> list[str]:
    names = [printable(script.path.name) for script in prune.removed]
    stays = printable(prune.squash.path.name)
    return [f"{done} {counted(len(names), 'script')}; {stays} stays"] + [f"  {n}" for n in names]
