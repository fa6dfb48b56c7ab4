"""`ckmigrate check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from ckmigrate.checking import Finding, check_project, reached_head
from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import CkmigrateError
from ckmigrate.identify import Replay
from ckmigrate.opened import replays
from ckmigrate.project import Project, parse_params
from ckmigrate.report.errors import error_data
from ckmigrate.report.escape import printable
from ckmigrate.report.findings import (
    annotation,
    error_annotation,
    finding_data,
    finding_lines,
    repository_root,
)
from ckmigrate.report.json import revision_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History

__all__ = ["command"]


@click.command("check", cls=Verb)
@click.option("--model", metavar="NAME", help="Only this one of several configured models.")
@click.option("--no-model", is_flag=True, help="Only the scripts and what is recorded; no torch.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    help="Also: annotations for GitHub Actions.",
)
@pass_session
def command(
    session: Session, model: str | None, no_model: bool, params: tuple[str, ...], form: str
) -> Answer:
    """Test that the migrations lead to today's model; meant for CI and needs no checkpoint. One
    head, no todo, scripts that stand alone, history.lock and the head snapshots as the scripts make
    them, no released script edited, and every base snapshot led through all scripts has exactly the
    tensors of its model. Exit code 1 with every difference where not, 3 where the history itself is
    invalid.

    \b
    Example:  ckmigrate check
              ckmigrate check --no-model --format github
    """
    session.json = session.json or form == "json"
    try:
        return _checked(session, model, params, no_model=no_model, is_github=form == "github")
    except CkmigrateError as error:
        if form != "github":
            raise
        session.complain(error)
        return Answer({}, error_annotation(error), error.exit_code, error_data(error))


def _checked(
    session: Session,
    model: str | None,
    params: tuple[str, ...],
    *,
    no_model: bool,
    is_github: bool,
) -> Answer:
    project = session.project()
    history = session.history(project)
    head = history.require_single_head()
    models = {} if no_model else _models(project, model)
    known = replays(project, history, parse_params(params))
    findings = check_project(project, history, known, models)
    problems = sum(finding.kind == "problem" for finding in findings)
    data = {
        "head": revision_data(history, head),
        "revisions": len(history),
        "snapshots": list(known),
        "models": dict(models),
        "findings": list(map(finding_data, findings)),
    }
    lines = _annotations(project, findings) if is_github else _lines(findings)
    failed = f"failed: {counted(problems, 'problem')}"
    reached = [name for name in models if reached_head(project, history, name, known)]
    proved = {name: models[name] for name in reached}
    lines.append(failed if problems else _success(history, head, known, proved))
    return Answer(data, "\n".join(lines), 1 if problems else 0)


def _models(project: Project, chosen: str | None) -> Mapping[str, str]:
    """The models to compare with, or the error that says how to configure one."""
    if chosen is None and len(project.models) > 1:
        return project.models
    name, factory = project.model(chosen)
    return {name: factory}


def _lines(findings: Sequence[Finding]) -> list[str]:
    return [line for finding in findings for line in finding_lines(finding)]


def _annotations(project: Project, findings: Sequence[Finding]) -> list[str]:
    root = repository_root(project.root)
    return [annotation(finding, root) for finding in findings]


def _success(
    history: History, head: str | None, known: Mapping[str, Replay], proved: Mapping[str, str]
) -> str:
    facts = [counted(len(history), "migration"), f"head {revision_text(history, head)}"]
    led = [name for name, replay in known.items() if replay.schema(head) is not None]
    if led:
        facts.append(f"led from the base: {', '.join(map(printable, led))}")
    fits = ", ".join(f"'{name}' ({factory})" for name, factory in proved.items())
    facts.append(f"fits model {fits}" if proved else "compared with no model")
    return f"ok: {'; '.join(facts)}"
