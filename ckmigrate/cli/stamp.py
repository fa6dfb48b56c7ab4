"""`ckmigrate stamp`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.destination import place
from ckmigrate.cli.options import (
    make_request,
    output_options,
    paths_argument,
    reading_options,
)
from ckmigrate.cli.session import Answer, Session
from ckmigrate.cli.unfit import told_of_the_file
from ckmigrate.cli.upgrade import write
from ckmigrate.errors import IdentifyError, VerificationError
from ckmigrate.identify import Replay
from ckmigrate.migrate import Prepared, prepare, replays
from ckmigrate.opened import Opened
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.schema import ellipsis_list
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.targets import resolve
from ckmigrate.strict import Difference, compare, describe
from ckmigrate.tag import parse_tag

__all__ = ["command"]


@click.command("stamp", cls=Verb)
@paths_argument
@click.argument("revision", metavar="REV")
@output_options
@reading_options
@click.option("--model", metavar="NAME", help="Which of several configured models.")
@click.option("--no-model", is_flag=True, help="Compare with the snapshot only.")
@pass_session
def command(
    session: Session,
    paths: tuple[Path, ...],
    revision: str,
    no_model: bool,
    **options: Any,
) -> Answer:
    """Record in checkpoints that they are at a revision, without migrating them. First their
    tensors are compared with what that revision should have: the model at the head, the committed
    snapshot led through the scripts elsewhere. Written as safely as by `upgrade`.

    \b
    Example:  ckmigrate stamp released.ckpt base -o tagged.ckpt
              ckmigrate stamp fresh.ckpt head --in-place
    """
    names = ("out", "out_dir", "in_place", "no_backup", "overwrite")
    placement = place(paths, verb="stamp", **{name: options.pop(name) for name in names})
    project = session.project()
    history = session.history(project)
    wanted = resolve(history, revision)
    text = wanted or "base"
    use_model = not no_model and bool(project.models)
    request = make_request(to=text, from_revision=text, use_model=use_model, **options)
    known = replays(project, history, request.params)

    def decide(path: Path) -> Prepared:
        with told_of_the_file(f"the checkpoint is not at {revision_text(history, wanted)}"):
            prepared = prepare(project, history, path, request, known=known)
        compared = prepared.compared
        if prepared.target is None:
            compared = _compared(prepared.opened, history, wanted, known)
        prepared = replace(prepared, compared=compared)
        return _kept(prepared) if _is_stamped(prepared) else prepared

    def one(path: Path) -> Answer:
        placement.check(path)
        return write(session, path, placement, decide)

    return each(session, paths, one)


def _compared(
    opened: Opened, history: History, revision: str | None, known: Mapping[str, Replay]
) -> str | None:
    """The snapshot that the file fits at a revision; None where no snapshot tells.

    VerificationError CKM621 with the differences from the nearest, where all say otherwise.
    """
    nearest: tuple[Difference, ...] | None = None
    for name, replay in known.items():
        schema = replay.schema(revision)
        if schema is None:
            continue
        differences = compare(opened.schema, schema)
        if not differences:
            return f"the snapshot '{name}'"
        if nearest is None or len(differences) < len(nearest):
            nearest = differences
    if nearest is None:
        return None
    raise VerificationError(
        "CKM621",
        f"the checkpoint is not at {revision_text(history, revision)}",
        where=str(opened.stored.path),
        details=tuple(ellipsis_list(describe(nearest, found="file", wanted="revision"), 20)),
        why="Its tensors are not those that the committed snapshot, led through the scripts, has "
        "at that revision.",
        fix="`ckmigrate identify` shows what it fits. Nothing was written.",
    )


def _is_stamped(prepared: Prepared) -> bool:
    """Whether the file says so already."""
    text = prepared.opened.stored.tag
    try:
        tag = None if text is None else parse_tag(text)
    except IdentifyError:
        return False
    return tag is not None and (tag.project, tag.revision) == (
        prepared.project.name,
        prepared.to_revision,
    )


def _kept(prepared: Prepared) -> Prepared:
    """With the evidence of its own tag, so that nothing is left to do in place."""
    return replace(prepared, identity=replace(prepared.identity, evidence="tag"))
