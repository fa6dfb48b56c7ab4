"""`ckmigrate identify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.collect import Found
from ckmigrate.cli.options import make_request, paths_argument, reading_options
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import IdentifyError
from ckmigrate.identify import Replay, candidates, identify
from ckmigrate.migrate import Opened, open_weights, replays
from ckmigrate.project import Project
from ckmigrate.report.errors import error_data
from ckmigrate.report.escape import printable
from ckmigrate.report.json import identity_data, revision_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.revisions.graph import History

__all__ = ["command"]

_WITHOUT = {
    "tag": "the file has none",
    "release": "no release number where the configuration says (release-key)",
    "tensors": "no base snapshot is committed to compare with: ckmigrate init",
}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one kind of evidence says: revisions, a problem, or nothing (both empty)."""

    revisions: tuple[str | None, ...] = ()
    problem: IdentifyError | None = None


@click.command("identify", cls=Verb)
@paths_argument
@reading_options
@pass_session
def command(session: Session, paths: tuple[Path, ...], **reading: Any) -> Answer:
    """Explain which revision each checkpoint is at: what its tag, its release number and its
    tensors say, side by side. Exit code 1 where the tag and the tensors contradict each other, 4
    where no revision can be told.

    \b
    Example:  ckmigrate identify old.ckpt
    """
    project = session.project()
    history = session.history(project)
    request = make_request(**reading)
    known = replays(project, history, request.params)

    def one(found: Found, _: Watch) -> Answer:
        return _explained(open_weights(found.path, project, request), project, history, known)

    return each(session, paths, one)


def _explained(
    opened: Opened, project: Project, history: History, known: Mapping[str, Replay]
) -> Answer:
    verdicts = {
        "tag": _verdict(opened, project, history, tag=True),
        "release": _verdict(opened, project, history, tag=False),
        "tensors": _by_tensors(opened, known),
    }
    text, data = _text(opened, history, verdicts, known), _data(history, verdicts)
    try:
        found = identify(
            history,
            project=project.name,
            tag_text=opened.stored.tag,
            schema=opened.schema,
            meta=opened.meta,
            release_keys=project.release_keys,
            replays=known,
            ties=opened.layout.ties,
        )
    except IdentifyError as error:
        lines = [text, f"  → unknown: {printable(error.what)}"]
        lines += [f"    {printable(detail)}" for detail in error.details]
        lines += [f"    fix: {printable(error.fix)}"] if error.fix else []
        return Answer(data, "\n".join(lines), error.exit_code, error_data(error))
    contradiction = _contradicts(found.revision, verdicts["tensors"].revisions)
    answer = f"  → {revision_text(history, found.revision)} — by {printable(found.evidence)}"
    if contradiction:
        answer += "\n  → the tensors contradict it: was the file changed after it was tagged?"
    data = {**data, **identity_data(history, found), "contradiction": contradiction}
    return Answer(data, f"{text}\n{answer}", 1 if contradiction else 0)


def _verdict(opened: Opened, project: Project, history: History, *, tag: bool) -> _Verdict:
    """What the tag alone, or the release number alone, says."""
    if tag and opened.stored.tag is None:
        return _Verdict()
    try:
        found = identify(
            history,
            project=project.name,
            tag_text=opened.stored.tag if tag else None,
            schema=opened.schema,
            meta=opened.meta,
            release_keys=() if tag else project.release_keys,
            replays={},
        )
    except IdentifyError as error:
        # Without release number and snapshots nothing is left to ask: that is no problem here.
        return _Verdict() if error.code == "CKM414" else _Verdict(problem=error)
    return _Verdict((found.revision,))


def _by_tensors(opened: Opened, known: Mapping[str, Replay]) -> _Verdict:
    return _Verdict(candidates(opened.schema, known))


def _contradicts(revision: str | None, fitting: tuple[str | None, ...]) -> bool:
    """Tensors that fit no revision say nothing: the sizes may have no snapshot."""
    return bool(fitting) and revision not in fitting


def _text(
    opened: Opened,
    history: History,
    verdicts: Mapping[str, _Verdict],
    known: Mapping[str, Replay],
) -> str:
    lines = [printable(opened.stored.path)]
    for kind, verdict in verdicts.items():
        if verdict.problem is not None:
            said = printable(verdict.problem.what)
        elif verdict.revisions:
            said = ", or ".join(revision_text(history, rev) for rev in verdict.revisions)
        elif kind == "tensors" and known:
            said = "they fit no revision of this history"
        else:
            said = _WITHOUT[kind]
        lines.append(f"  {kind + ':':<9}{said}")
    return "\n".join(lines)


def _data(history: History, verdicts: Mapping[str, _Verdict]) -> dict[str, object]:
    return {
        "verdicts": {
            kind: {
                "revisions": [revision_data(history, rev) for rev in verdict.revisions],
                "problem": verdict.problem and error_data(verdict.problem),
            }
            for kind, verdict in verdicts.items()
        }
    }
