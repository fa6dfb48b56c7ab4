"""`ckmigrate rebase`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request
from ckmigrate.cli.record import file_names, with_record
from ckmigrate.cli.session import Answer, Session
from ckmigrate.file_set import replace_files
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.rebasing import Rebase, plan_rebase, require_replayed
from ckmigrate.report.escape import printable
from ckmigrate.revisions.rebase import Moved

__all__ = ["command"]


@click.command("rebase", cls=Verb)
@click.argument("revision", metavar="[REV]", required=False)
@click.option("--onto", metavar="REV", help="The head that stays as it is.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session,
    revision: str | None,
    onto: str | None,
    dry_run: bool,
    params: tuple[str, ...],
) -> Answer:
    """Put the scripts of one branch behind another, so that the history has one head again. While
    `git merge` or `git rebase` waits for a conflict in history.lock to be resolved, that tells
    which scripts are yours; otherwise say with --onto which head stays, and with REV which one
    moves if there are more than two.

    In the moved scripts only the literals change: `revises`, and the id, because a checkpoint that
    went through the old script did so without the other branch; `formerly` keeps the old one. The
    whole history is replayed on the committed snapshots first, and nothing is changed where a
    script does not work any more. Released scripts are not moved. The lock and the head snapshots
    are written anew.

    \b
    Example:  ckmigrate rebase                (after `git merge main` stopped at history.lock)
              ckmigrate rebase --onto 3f2a --dry-run
    """
    project = session.project()
    rebase = plan_rebase(project, onto=onto, branch=revision)
    given = make_request(params=params).params
    known = replays(project, rebase.history, given)
    remarks = require_replayed(rebase, known)
    files = with_record(project, rebase.history, rebase.scripts, given)
    if not dry_run:
        replace_files(files, folder=project.migrations)
    for remark in remarks:
        session.note(f"note: {remark}")
    data = {
        "onto": rebase.sides.onto,
        "moved": [_moved_data(each) for each in rebase.moved],
        "files": [str(path) for path in files],
        "heads": list(rebase.history.heads),
        "dry_run": dry_run,
    }
    return Answer(data, "\n".join(_lines(project, rebase, files, list(known), dry_run=dry_run)))


def _moved_data(each: Moved) -> dict[str, object]:
    return {
        "revision": each.new.id,
        "formerly": each.old.id,
        "revises": list(each.new.parents),
        "file": str(each.new.path),
        "old_file": str(each.old.path),
    }


def _lines(
    project: Project,
    rebase: Rebase,
    changed: Mapping[Path, bytes | None],
    snapshots: Sequence[str],
    *,
    dry_run: bool,
) -> Iterator[str]:
    onto = rebase.history.label(rebase.sides.onto)
    if not changed:
        yield f"nothing to rebase: {printable(onto)} is where everything leads"
        return
    if rebase.moved:
        yield f"{'would put' if dry_run else 'put'} behind {printable(onto)} ({rebase.sides.why}):"
    for each in rebase.moved:
        file = printable(each.new.path.name)
        name = printable(each.old.path.name) + (f" → {file}" if file != each.old.path.name else "")
        yield f"  {name}: {each.old.id} is {each.new.id} now"
    proved = ", ".join(f"'{printable(name)}'" for name in snapshots)
    tried = f"replayed on snapshot {proved}" if proved else "there is no snapshot to try it on"
    there = [path for path, data in changed.items() if data is not None]
    yield f"{'would write' if dry_run else 'wrote'} {file_names(project, there)}; {tried}"
    gone = [path for path, data in changed.items() if data is None]
    if gone:
        yield f"{'would remove' if dry_run else 'removed'} {file_names(project, gone)}"
    if len(rebase.history.heads) > 1:
        yield f"{len(rebase.history.heads)} heads remain: `ckmigrate heads` lists them"
    if rebase.moved and not dry_run:
        yield "checkpoints that are at the old ids will be refused, with the way out"
    if rebase.git is not None and not dry_run:
        folder = printable(project.migrations.relative_to(project.root))
        yield f"next: git add {folder}, then {rebase.git.next_step}"
