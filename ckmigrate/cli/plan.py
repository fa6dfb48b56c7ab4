"""`ckmigrate plan`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.collect import Found
from ckmigrate.cli.options import make_request, paths_argument, reading_options, result_options
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.migrate import Prepared, finding_once, prepare, replays
from ckmigrate.uncollected import uncollected

__all__ = ["command", "plan_answer"]


@click.command("plan", cls=Verb)
@paths_argument
@click.option("--to", default="head", metavar="REV", help="Where to; the head by default.")
@reading_options
@result_options
@click.option("--with-model", is_flag=True, help="Compare with the model itself (needs torch).")
@pass_session
def command(
    session: Session, paths: tuple[Path, ...], to: str, with_model: bool, **options: Any
) -> Answer:
    """Show what an upgrade would do: every operation, folded over layers, and what it costs. No
    tensor is read and nothing is written.

    The result is compared with the committed snapshot, led through the scripts; `--with-model`
    builds the model and compares with that, as `upgrade` does, and so does optimizer state that
    counts its parameters, since the model numbers them. -v lists every group of tensors;
    --json gives the plan entry by entry.

    \b
    Example:  ckmigrate plan old.ckpt
              ckmigrate plan old.ckpt --to +1 --json
    """
    project = session.project()
    history = session.history(project)
    request = make_request(to=to, use_model=with_model, **options)
    request = replace(request, model_for_order=True)
    known, find = replays(project, history, request.params), finding_once()

    def one(found: Found, _: Watch) -> Answer:
        prepared = prepare(project, history, found.path, request, known=known, find=find)
        return plan_answer(session, prepared)

    return each(session, paths, one)


@uncollected()
def plan_answer(session: Session, prepared: Prepared) -> Answer:
    """The plan as text or as data; `upgrade --dry-run` says the same."""
    # `upgrade` only shows a plan when it is asked to, and starts sooner without these.
    if session.json:
        from ckmigrate.report.plan_json import plan_data

        return Answer(plan_data(prepared))
    from ckmigrate.report.plan_text import plan_text

    width = max(60, min(120, shutil.get_terminal_size((80, 24)).columns))
    text = plan_text(prepared, width=width, full=session.verbose > 0)
    return Answer(text=text)
