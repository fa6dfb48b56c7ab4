"""`ckmigrate check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import CkmigrateError, MigrationError
from ckmigrate.identify import Replay
from ckmigrate.meta import is_unknown_metadata
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.report.json import revision_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.schema import ellipsis_list
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.squashed import stretch_of
from ckmigrate.strict import compare, compare_ties, describe, describe_ties

__all__ = ["command"]

_MOST_LINES = 40
_UNLOADABLE = "CKM510"


@dataclass(frozen=True, slots=True)
class _Finding:
    """One thing that is wrong ("problem", exit 1) or worth knowing ("warning")."""

    kind: Literal["problem", "warning"]
    what: str
    fix: str
    details: tuple[str, ...] = ()


@click.command("check", cls=Verb)
@click.option("--model", metavar="NAME", help="Only this one of several configured models.")
@click.option("--no-model", is_flag=True, help="Only the scripts and snapshots; no torch.")
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="A value for ck.params."
)
@pass_session
def command(session: Session, model: str | None, no_model: bool, params: tuple[str, ...]) -> Answer:
    """Test that the migrations lead to today's model; meant for CI. One head, no todo, scripts that
    stand alone, and every committed base snapshot led through all scripts has exactly the tensors
    of its model. Exit code 1 with every difference where not, 3 where the history itself is
    invalid.

    \b
    Example:  ckmigrate check
    """
    project = session.project()
    history = session.history(project)
    head = history.require_single_head()
    models = {} if no_model else _models(project, model)
    known = replays(project, history, make_request(params=params).params)
    findings = [
        *_of_scripts(history),
        *_of_snapshots(project, history, known, models),
        *_of_squashed(history, known),
        *(f for name in models for f in _of_model(project, name, known, head)),
    ]
    return _answer(history, head, known, models, findings)


def _models(project: Project, chosen: str | None) -> Mapping[str, str]:
    """The models to compare with, or the error that says how to configure one."""
    if chosen is None and len(project.models) > 1:
        return project.models
    name, factory = project.model(chosen)
    return {name: factory}


def _of_scripts(history: History) -> Iterator[_Finding]:
    for script in history.order:
        if script.has_todo:
            lines = ", ".join(map(str, script.todo_lines))
            what = f"{script.path.name} is not finished: todo in line {lines}"
            yield _Finding("problem", what, "Replace the todo by the operations that are meant.")
        if script.foreign_imports:
            what = f"{script.path.name} imports {', '.join(script.foreign_imports)}"
            fix = "Copy what it needs into the script: it must still run when that code moved on."
            yield _Finding("warning", what, fix)
        try:
            script.load()
        except CkmigrateError as error:
            details = tuple(text for text in (error.where, error.why) if text)
            fix = error.fix or "Correct the script."
            yield _Finding("problem", error.what, fix, details + error.details)


def _of_snapshots(
    project: Project, history: History, known: Mapping[str, Replay], models: Mapping[str, str]
) -> Iterator[_Finding]:
    create = "ckmigrate init --from-checkpoint PATH"
    if not known:
        what = f"there is no base snapshot in {project.snapshot_path('any').parent}"
        fix = f"Create it from a checkpoint that is at the base, and commit it: {create}"
        yield _Finding("problem", what, fix)
    unknown = [name for name in models if name not in known] if known else []
    for name in unknown:
        # A gate that compares nothing must not look like one that found nothing.
        kind: Literal["problem", "warning"] = (
            "problem" if len(unknown) == len(models) else "warning"
        )
        what = f"model '{name}' has no base snapshot, so the migrations are not compared with it"
        fix = f"Add it: {create} --model-name {name}"
        if kind == "problem":
            fix += f"; or give the model the name of its snapshot ({', '.join(known)}) in `models`"
        yield _Finding(kind, what, fix)
    for name, replay in known.items():
        if len(replay.schemas()) <= len(history):
            yield from _of_failures(name, replay)


def _of_failures(name: str, replay: Replay) -> Iterator[_Finding]:
    for revision, error in replay.failures.items():
        label = replay.history.label(revision)
        if replay.history.script(revision).has_todo or error.code == _UNLOADABLE:
            continue  # a finding of its own
        if isinstance(error, MigrationError) and is_unknown_metadata(error):
            what = f"{label} reads metadata, so snapshot '{name}' cannot be led past it"
            fix = "Read the parameter through ck.params, with a value in [tool.ckmigrate.params]."
            yield _Finding("warning", what, fix)
        else:
            what = f"{label} fails on snapshot '{name}': {error.what}"
            details = tuple(text for text in (error.where, error.why) if text)
            fix = error.fix or "Correct the script."
            yield _Finding("problem", what, fix, details + error.details)


def _of_squashed(history: History, known: Mapping[str, Replay]) -> Iterator[_Finding]:
    """Squashed scripts that no longer do what their originals do."""
    from ckmigrate.squash.squash import prove

    params = next((replay.params for replay in known.values()), {})
    for squash in history.squashed.values() if known else ():
        try:
            prove(stretch_of(squash, history.scripts) or (), known, params, squash)
        except CkmigrateError as error:
            fix = "Remove it and squash again, or correct the script that was changed."
            yield _Finding("problem", error.what, fix, error.details)


def _of_model(
    project: Project, name: str, known: Mapping[str, Replay], head: str | None
) -> Iterator[_Finding]:
    """Where the snapshot of a model, at the head, is not the model."""
    from ckmigrate.target import load_target

    replay = known.get(name)
    reached = None if replay is None else replay.schema(head)
    target = load_target(project.models[name], name, python_path=project.python_path)
    if replay is None or reached is None:
        return
    lines = describe(compare(reached, target.schema, exempt=project.exempt))
    traced = replay.traced(head) if head is not None else None
    ties = traced.after.ties if traced else replay.base.ties
    lines += describe_ties(compare_ties(ties, target.ties, reached))
    if lines:
        what = f"the migrations do not lead to model '{name}' ({target.factory})"
        fix = (
            'Write the migration that is missing: ckmigrate revision -m "what changed"; or correct '
            "the newest one, if no checkpoint went through it yet."
        )
        yield _Finding("problem", what, fix, tuple(ellipsis_list(lines, _MOST_LINES)))


def _answer(
    history: History,
    head: str | None,
    known: Mapping[str, Replay],
    models: Mapping[str, str],
    findings: list[_Finding],
) -> Answer:
    problems = sum(finding.kind == "problem" for finding in findings)
    data = {
        "head": revision_data(history, head),
        "revisions": len(history),
        "snapshots": list(known),
        "models": dict(models),
        "findings": [
            {"kind": f.kind, "what": f.what, "fix": f.fix, "details": list(f.details)}
            for f in findings
        ],
    }
    lines = [line for finding in findings for line in _lines(finding)]
    if problems:
        lines.append(f"failed: {counted(problems, 'problem')}")
    else:
        lines.append(_success(history, head, known, models))
    return Answer(data, "\n".join(lines), 1 if problems else 0)


def _lines(finding: _Finding) -> Iterator[str]:
    yield f"{finding.kind}: {printable(finding.what)}"
    yield from (f"  - {printable(line)}" for line in finding.details)
    yield f"  fix: {printable(finding.fix)}"


def _success(
    history: History, head: str | None, known: Mapping[str, Replay], models: Mapping[str, str]
) -> str:
    facts = [counted(len(history), "migration"), f"head {revision_text(history, head)}"]
    led = [name for name, replay in known.items() if replay.schema(head) is not None]
    if led:
        facts.append(f"led from the base: {', '.join(map(printable, led))}")
    proved = [f"'{name}' ({factory})" for name, factory in models.items() if name in led]
    facts.append(f"fits model {', '.join(proved)}" if proved else "compared with no model")
    return f"ok: {'; '.join(facts)}"
