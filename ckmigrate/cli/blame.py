"""`ckmigrate blame`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import PATH, make_request
from ckmigrate.cli.session import Answer, Session
from ckmigrate.compile import Trace, start, trace
from ckmigrate.errors import UsageError
from ckmigrate.lineage import Life, Lineage
from ckmigrate.migrate import Request, identify_opened, open_weights, replays
from ckmigrate.names import nearest, select
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.report.lineage import folded, life_data
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History

__all__ = ["command"]


@click.command("blame", cls=Verb)
@click.argument("name", metavar="NAME")
@click.option("--forward", is_flag=True, help="NAME is an old one: show what became of it.")
@click.option("--model", metavar="NAME", help="Only the snapshot of this model.")
@click.option("--from-file", "path", type=PATH, metavar="PATH", help="A checkpoint to begin with.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(
    session: Session,
    name: str,
    forward: bool,
    model: str | None,
    path: Path | None,
    params: tuple[str, ...],
) -> Answer:
    """Show where a tensor of today comes from, newest first: through which operations of which
    scripts, down to what it was before the first one. NAME may be a pattern; entries that differ in
    numbers only are shown once. The scripts run on names and shapes, on the base snapshots or on
    the checkpoint of --from-file.

    \b
    Example:  ckmigrate blame head.weight
              ckmigrate blame 'blocks.{i}.attn.q.weight'
              ckmigrate blame --forward classifier.1.weight
    """
    project = session.project()
    history = session.history(project)
    request = make_request(params=params, model=model)
    traces = _traces(project, history, request, path)
    lives = {
        source: found
        for source, done in traces.items()
        if (found := _lives(Lineage(done), name, forward=forward))
    }
    if not lives:
        raise _unknown(name, traces, forward=forward)
    data = {"name": name, "forward": forward}
    return Answer(
        {**data, "found": {source: [*map(life_data, found)] for source, found in lives.items()}},
        "\n\n".join(_text(lives, forward=forward)),
    )


def _traces(
    project: Project, history: History, request: Request, path: Path | None
) -> dict[str, Trace]:
    """All scripts on each base snapshot; or those that a checkpoint has before it."""
    head = history.require_single_head()
    params = {**project.params, **request.params}
    if path is not None:
        opened = open_weights(path, project, request)
        at = identify_opened(opened, project, history, request).revision
        begin = start(opened.schema, ties=opened.layout.ties, meta=opened.meta)
        return {path.name: trace(history.path_up(at, head, originals=True), begin, params)}
    known = replays(project, history, request.params)
    if request.model is not None and request.model not in known:
        raise _no_snapshot(project, f"model '{request.model}' has no base snapshot", known)
    if not known:
        raise _no_snapshot(project, "there is no base snapshot", known)
    scripts = history.path_up(None, head, originals=True)
    return {
        name: trace(scripts, start(replay.base.schema, ties=replay.base.ties), params)
        for name, replay in known.items()
        if request.model in (None, name)
    }


def _lives(lineage: Lineage, name: str, *, forward: bool) -> list[Life]:
    state = lineage.trace.start if forward else lineage.trace.end
    if name in state.entries:
        return [lineage.forward(name) if forward else lineage.back(name)]
    found = [match.name for match in select(name, state.entries)]
    return [lineage.forward(one) if forward else lineage.back(one) for one in found]


def _no_snapshot(project: Project, what: str, known: Mapping[str, object]) -> UsageError:
    return UsageError(
        "CKM246",
        what,
        where=str(project.snapshot_path("any").parent),
        why=f"there is one for {', '.join(known)}" if known else "the scripts need names to run on",
        fix="Begin with a checkpoint: --from-file PATH; or commit a snapshot: ckmigrate init.",
    )


def _unknown(name: str, traces: Mapping[str, Trace], *, forward: bool) -> UsageError:
    states = [(t.start if forward else t.end).entries for t in traces.values()]
    others = [(t.end if forward else t.start).entries for t in traces.values()]
    near = [one for entries in states for one in nearest(name, entries)]
    when, flag = ("before the first script", "without") if forward else ("today", "with")
    fix = f"nearest: {', '.join(map(printable, near[:3]))}." if near else "See `ckmigrate diff`."
    if any(select(name, entries) for entries in others):
        fix = f"It is a name of the other end of the history: ask {flag} --forward."
    return UsageError("CKM247", f"no entry is called '{name}' {when}", fix=fix)


def _text(lives: Mapping[str, Sequence[Life]], *, forward: bool) -> list[str]:
    blocks: list[str] = []
    for source, found in lives.items():
        head = [f"{printable(source)}:"] if len(lives) > 1 else []
        groups = folded(found, ahead=forward)
        for text, group in groups.items():
            more = len(group) - 1
            tail = [f"  and so for {counted(more, 'more entry', 'more entries')}"] if more else []
            blocks.append("\n".join([*head, text, *tail]))
    return blocks
