"""`ckmigrate export`."""

from __future__ import annotations

from pathlib import Path

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.files import create
from ckmigrate.cli.options import PATH, make_request
from ckmigrate.cli.session import Answer, Session
from ckmigrate.compile import start, trace
from ckmigrate.errors import UsageError
from ckmigrate.export.program import program
from ckmigrate.identify import Replay
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import counted
from ckmigrate.revisions.targets import resolve

__all__ = ["command"]


@click.command("export", cls=Verb)
@click.argument("states", metavar="[FROM:TO]", default=":")
@click.option("--python", "is_python", is_flag=True, help="As a Python program (the only kind).")
@click.option("-o", "--output", "out", type=PATH, metavar="FILE", help="Write it there.")
@click.option("--model", metavar="NAME", help="For the checkpoints of this model.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session,
    states: str,
    is_python: bool,
    out: Path | None,
    model: str | None,
    params: tuple[str, ...],
) -> Answer:
    """Write a program that converts checkpoints of one model from one revision to another, and
    needs numpy and torch, but not ckmigrate: for a model card. It gives the same tensors, bit for
    bit, and refuses a file with other names, dtypes or shapes. Without FROM:TO it goes from the
    base to the head.

    \b
    Example:  ckmigrate export --python base:2.0 -o convert.py
              python convert.py old.safetensors new.safetensors
    """
    project = session.project()
    history = session.history(project)
    begin, end = _states(states, history.require_single_head())
    first, last = resolve(history, begin), resolve(history, end)
    request = make_request(params=params, model=model)
    replay = _replay(project, replays(project, history, request.params), model)
    traced = None if first is None else replay.traced(first)
    schema = replay.schema(first)
    if schema is None:
        raise _not_reached(revision_text(history, first))
    state = start(schema, ties=replay.base.ties if traced is None else traced.after.ties)
    done = trace(history.path_up(first, last, originals=True), state, replay.params)
    text = program(
        done,
        project=printable(project.name),
        begin=revision_text(history, first),
        end=revision_text(history, last),
    )
    if out is not None:
        create(out, text)
    data = {"file": None if out is None else str(out), "from": first, "to": last, "text": text}
    count = counted(len(done.end.entries), "entry", "entries")
    return Answer(data, text.rstrip() if out is None else f"wrote {printable(out)}: makes {count}")


def _states(text: str, head: str | None) -> tuple[str, str]:
    begin, colon, end = text.partition(":")
    if not colon:
        raise UsageError(
            "CKM248",
            f"'{text}' does not say from where to where",
            fix="Write FROM:TO, such as base:2.0; without one side it is the base or the head.",
        )
    return begin or "base", end or head or "base"


def _replay(project: Project, known: dict[str, Replay], model: str | None) -> Replay:
    """The snapshot that the program is made for."""
    if model is None and len(known) == 1:
        return next(iter(known.values()))
    if model in known:
        return known[model or ""]
    what = f"model '{model}' has no base snapshot" if model else "no model was chosen"
    raise UsageError(
        "CKM246",
        what if known else "there is no base snapshot",
        where=str(project.snapshot_path("any").parent),
        why="a program has the names and shapes of one model",
        fix=f"Choose one: --model {' or --model '.join(known)}."
        if known
        else "Commit one: ckmigrate init --from-checkpoint PATH.",
    )


def _not_reached(revision: str) -> UsageError:
    return UsageError(
        "CKM249",
        f"the snapshot cannot be led to {revision}",
        why="a script on the way reads metadata, or fails",
        fix="`ckmigrate check --no-model` tells which.",
    )
