"""`ckmigrate squash`."""

from __future__ import annotations

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.files import create
from ckmigrate.cli.options import make_request
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.migrate import replays
from ckmigrate.report.escape import printable
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History, build_history
from ckmigrate.revisions.script import Script, parse_script
from ckmigrate.revisions.targets import resolve
from ckmigrate.revisions.template import next_file_name
from ckmigrate.squash.squash import Squash, squash, stretch

__all__ = ["command", "ends_of"]


@click.command("squash", cls=Verb)
@click.argument("stretch_text", metavar="FIRST:LAST")
@click.option("-m", "--message", metavar="MSG", help="The docstring of the new script.")
@click.option("--dry-run", is_flag=True, help="Show the script; write nothing.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session,
    stretch_text: str,
    message: str | None,
    dry_run: bool,
    params: tuple[str, ...],
) -> Answer:
    """Write one script that does what the scripts from FIRST to LAST do, both included. It is
    traced beside them on every base snapshot, and on variants of it; where anything would differ,
    nothing is written. The old scripts stay until `ckmigrate prune`: a checkpoint that is inside
    the stretch goes through them.

    \b
    Example:  ckmigrate squash 1:1.4
              ckmigrate squash : --dry-run
    """
    project = session.project()
    history = session.history(project)
    given = make_request(params=params).params
    scripts = stretch(history, *ends_of(history, stretch_text))
    text = message or f"Do what {scripts[0].path.stem} to {scripts[-1].path.stem} do."
    path = project.migrations / _file_name(history, scripts, message)
    known = replays(project, history, given)
    found = squash(scripts, known, {**project.params, **given}, message=text, path=path)
    if not dry_run:
        script = parse_script(found.text.encode(), path)
        everything = (*history.order, *history.squashed.values(), script)
        build_history(everything, folder=history.folder)
        create(path, found.text)
    return _answer(found, is_written=not dry_run)


def ends_of(history: History, text: str) -> tuple[str, str]:
    """The two revisions of FIRST:LAST; without one, the first script or the head."""
    first, colon, last = text.partition(":")
    if not colon:
        raise UsageError(
            "CKM245",
            f"'{text}' names no stretch of the history",
            why="it has two ends, and both belong to it",
            fix="Write FIRST:LAST, such as 3:1.4; or : for all scripts.",
        )
    begin = resolve(history, first) if first else next(iter(history.roots), None)
    end = resolve(history, last) if last else history.require_single_head()
    if begin is None or end is None:
        raise UsageError(
            "CKM245",
            f"'{text}' begins or ends at the base, which has no script",
            why="a stretch is named by its first and its last script",
            fix="`ckmigrate history` lists the scripts.",
        )
    return begin, end


def _file_name(history: History, scripts: tuple[Script, ...], message: str | None) -> str:
    """The number of the last script, because what comes after it has a higher one."""
    first, last = scripts[0].number, scripts[-1].number
    slug = next_file_name(history, message).partition("_")[2] if message else None
    if first is None or last is None:
        return slug or f"squash_{scripts[0].id}_to_{scripts[-1].id}.py"
    return f"{last:04d}_{slug or f'squash_{first:04d}_to_{last:04d}.py'}"


def _answer(found: Squash, *, is_written: bool) -> Answer:
    calls, before = found.calls
    names, variants = found.proved
    data = {
        "file": str(found.script.path),
        "written": is_written,
        "revision": found.script.id,
        "replaces": list(found.script.replaces),
        "statements": calls,
        "statements_before": before,
        "proved_on": list(names),
        "variants": variants,
        "text": found.text,
    }
    done = "wrote" if is_written else "would write"
    listed = ", ".join(map(printable, names))
    scripts = counted(len(found.replaced), "script")
    name = printable(found.script.path.name)
    lines = [
        f"{done} {name}: {counted(calls, 'statement')} for {before} in {scripts}",
        f"proved on snapshot {listed} and {counted(variants, 'variant')} of its names",
    ]
    if is_written:
        lines.append("the old scripts serve checkpoints in between until `ckmigrate prune`")
    else:
        lines += ["", *map(printable, found.text.rstrip().split("\n"))]
    return Answer(data, "\n".join(lines))
