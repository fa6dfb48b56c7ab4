"""`ckmigrate stamp`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import Work, write_all
from ckmigrate.cli.collect import Found
from ckmigrate.cli.destination import Placement, place
from ckmigrate.cli.misplaced import require_paths
from ckmigrate.cli.options import (
    batch_options,
    make_request,
    output_options,
    paths_argument,
    reading_options,
)
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.cli.skipping import finished, resumes, skips_current
from ckmigrate.cli.unfit import told_of_the_file
from ckmigrate.cli.upgrade import BATCH, OUTPUT, find, write
from ckmigrate.errors import IdentifyError, VerificationError
from ckmigrate.identify import Replay
from ckmigrate.migrate import Prepared, Request, finding_once, prepare, replays
from ckmigrate.opened import Opened
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.schema import ellipsis_list
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.targets import resolve
from ckmigrate.strict import Difference, compare, describe
from ckmigrate.tagging import parse_tag

__all__ = ["command"]


@click.command("stamp", cls=Verb)
@paths_argument
@click.argument("revision", metavar="REV")
@output_options
@batch_options
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
    snapshot led through the scripts elsewhere. Written as safely as by `upgrade`, and of many
    checkpoints in the same way.

    \b
    Example:  ckmigrate stamp released.ckpt base -o tagged.ckpt
              ckmigrate stamp fresh.ckpt head --in-place --fast
    """
    output = {name: options.pop(name) for name in OUTPUT}
    batch = {name: options.pop(name) for name in BATCH}
    _require_order(session, paths, revision)
    collection = find(session, paths, output)
    placement = place(collection, verb="stamp", revision=revision, **output)
    project = session.project()
    wanted = resolve(session.history(project), revision)
    text = wanted or "base"
    use_model = not no_model and bool(project.models)
    request = make_request(to=text, from_revision=text, use_model=use_model, **options)
    skips = skips_current(collection, output, batch)
    job = Stamping(placement, request, wanted, skips, resumes(collection, placement))
    return write_all(session, collection, job, jobs=batch["jobs"], keep_going=batch["keep_going"])


@dataclass(frozen=True, slots=True)
class Stamping:
    """The job of `stamp`; `skips` says that what bears the tag already is not written, `resumes`
    that a result which an earlier run has finished is left as it is."""

    placement: Placement
    request: Request
    wanted: str | None
    skips: bool
    resumes: bool

    def begin(self, session: Session) -> Work:
        """Read the project, its history and its snapshots."""
        project = session.project()
        history = session.history(project)
        known = replays(project, history, self.request.params)
        find_model = finding_once()

        def decide(path: Path) -> Prepared:
            name = revision_text(history, self.wanted)
            with told_of_the_file(f"the checkpoint is not at {name}"):
                prepared = prepare(
                    project, history, path, self.request, known=known, find=find_model
                )
            compared = prepared.compared
            if prepared.target is None:
                compared = _compared(prepared.opened, history, self.wanted, known)
            prepared = replace(prepared, compared=compared)
            return _kept(prepared) if _is_stamped(prepared) else prepared

        def one(found: Found, watch: Watch) -> Answer:
            if self.resumes and (done := finished(found, self.placement, decide)) is not None:
                return done
            self.placement.check(found)
            return write(session, found, self.placement, decide, watch, skips=self.skips)

        return one

    def title(self, found: Found) -> str:
        """The name of the result."""
        return self.placement.title(found)


def _require_order(session: Session, paths: tuple[Path, ...], revision: str) -> None:
    """UsageError CKM242 where the revision stands before the files."""
    if os.path.lexists(revision):
        require_paths(session, paths, last=revision)


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
