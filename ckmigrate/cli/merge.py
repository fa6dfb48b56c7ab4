"""`ckmigrate merge`."""

from __future__ import annotations

from collections.abc import Mapping

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request
from ckmigrate.cli.record import file_names, with_record
from ckmigrate.cli.session import Answer, Session
from ckmigrate.commuting import disagreements
from ckmigrate.errors import HistoryError, UsageError
from ckmigrate.file_set import replace_files
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.report.schema import ellipsis_list
from ckmigrate.revisions.graph import History, build_history
from ckmigrate.revisions.script import parse_script
from ckmigrate.revisions.targets import resolve
from ckmigrate.revisions.template import new_revision_id, next_file_name, render

__all__ = ["command"]

_MOST_LINES = 20
_BODY = "pass  # nothing is left to do: the branches lead to the same in either order"


@click.command("merge", cls=Verb)
@click.argument("revisions", metavar="[REV]...", nargs=-1)
@click.option("-m", "--message", metavar="MSG", help="What is joined, in a few words.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session, revisions: tuple[str, ...], message: str | None, params: tuple[str, ...]
) -> Answer:
    """Join the heads of branches by a script that has nothing to do. Before, every order in which a
    checkpoint may go through the branches is traced on the committed snapshots: where they do not
    all end in the same, the merge is refused and says what differs. Then put one branch behind the
    other with `ckmigrate rebase`, or write a merge that tells what is meant:
    `ckmigrate revision --revises A --revises B`.

    Without REV all heads are joined.

    \b
    Example:  ckmigrate merge
              ckmigrate merge -m "Join the adapters" 3f2a 77d0
    """
    project = session.project()
    history = session.history(project)
    heads = _heads(history, revisions)
    if len(heads) < 2:
        label = history.label(heads[0]) if heads else "base"
        return Answer({"file": None}, f"nothing to merge: the history has one head, {label}")
    given = make_request(params=params).params
    _require_same(project, history, heads, given)
    names = " and ".join(history.script(head).path.stem for head in heads)
    text = render(
        message or f"Merge {names}", revision=new_revision_id(), revises=heads, body=_BODY
    )
    path = project.migrations / next_file_name(history, message or "Merge")
    script = parse_script(text.encode(), path)
    scripts = (*history.order, *history.squashed.values(), script)
    after = build_history(scripts, folder=history.folder)
    files = with_record(project, after, {path: text.encode()}, given)
    replace_files(files, folder=project.migrations)
    data = {
        "file": str(path),
        "revision": script.id,
        "revises": list(heads),
        "written": [str(one) for one in files],
    }
    joined = " and ".join(map(history.label, heads))
    first = f"wrote {file_names(project, files)}: revision {script.id} joins {joined}"
    return Answer(data, f"{first}\nboth orders do the same; commit these files")


def _heads(history: History, revisions: tuple[str, ...]) -> tuple[str, ...]:
    """What to join: all heads, or those that were named."""
    if not revisions:
        return history.heads
    found = tuple(dict.fromkeys(resolve(history, text) for text in revisions))
    named = tuple(revision for revision in found if revision in history.heads)
    if len(named) == len(found) > 1:
        return tuple(revision for revision in named if revision is not None)
    wrong = [history.label(one) for one in found if one not in history.heads]
    raise UsageError(
        "CKM258",
        f"{wrong[0]} is no head" if wrong else "a merge needs two heads",
        details=tuple(f"head {history.label(head)}" for head in history.heads),
        why="what is not a head is joined with what comes after it",
        fix="Name two heads or more, or none for all of them.",
    )


def _require_same(
    project: Project, history: History, heads: tuple[str, ...], params: Mapping[str, object]
) -> None:
    """HistoryError CKM336 unless every order of the branches is proved to do the same."""
    known = replays(project, history, params)
    written = "ckmigrate revision -m MSG " + " ".join(f"--revises {head}" for head in heads)
    if not known:
        raise HistoryError(
            "CKM336",
            "it cannot be proved that the branches do not get into each other's way",
            where=str(project.snapshot_path("any").parent),
            why="there is no base snapshot on which both orders could be tried",
            fix=f"Add one (ckmigrate init --from-checkpoint PATH), or answer for it: {written}.",
        )
    found = disagreements(history, heads, known)
    if found:
        raise HistoryError(
            "CKM336",
            "the order of the branches matters, so an empty merge would be wrong",
            where=str(history.folder),
            details=tuple(ellipsis_list(found, _MOST_LINES)),
            why="Two checkpoints of one revision would differ by the way that they took.",
            fix=f"Put one branch behind the other: ckmigrate rebase --onto {heads[0]}; or write "
            f"what is to happen: {written}.",
        )
