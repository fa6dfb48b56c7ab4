"""`ckmigrate verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.batch import each
from ckmigrate.cli.collect import Found
from ckmigrate.cli.options import make_request, paths_argument, reading_options
from ckmigrate.cli.progress import Watch
from ckmigrate.cli.session import Answer, Session
from ckmigrate.cli.unfit import told_of_the_file
from ckmigrate.errors import VerificationError
from ckmigrate.execute.fill import check_claims
from ckmigrate.execute.source import open_source
from ckmigrate.identify import Replay, candidates
from ckmigrate.migrate import Opened, Prepared, open_weights, prepare, replays
from ckmigrate.report.escape import printable
from ckmigrate.report.json import identity_data
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.units import bytes_text, counted
from ckmigrate.strictly_loads import strictly_loads

__all__ = ["command"]

_PIECE = 4 << 20


@click.command("verify", cls=Verb)
@paths_argument
@reading_options
@click.option("--model", metavar="NAME", help="Which of several configured models.")
@click.option("--no-model", is_flag=True, help="Build no model.")
@pass_session
def command(session: Session, paths: tuple[Path, ...], no_model: bool, **options: Any) -> Answer:
    """Prove that checkpoints are intact and fit: every byte is read and every checksum compared,
    the tag is known to this history, the tensors are those of its revision, and at the head a fresh
    model loads them strictly. Exit code 6 where they do not fit, 7 where a file is damaged.

    verify(old, new) of the scripts needs the old checkpoint too; `upgrade --verify=full` runs it.
    All are tried, whatever is wrong with one, and a table of many ends the run.

    \b
    Example:  ckmigrate verify released/*.ckpt
    """
    project = session.project()
    history = session.history(project)
    use_model = not no_model and bool(project.models)
    request = make_request(use_model=use_model, **options)
    known = replays(project, history, request.params)

    def one(found: Found, watch: Watch) -> Answer:
        read = _read_everything(open_weights(found.path, project, request), watch)
        watch.phase("verify", 0)
        with told_of_the_file("the checkpoint does not fit"):
            here = prepare(project, history, found.path, replace(request, to="+0"), known=known)
        _require_revision_schema(here, known)
        _prove(here)
        return _answer(here, read)

    return each(session, paths, one, is_long=True)


def _read_everything(opened: Opened, watch: Watch) -> tuple[int, int]:
    """Read every record; bytes, and how many of the records have a checksum, which was right."""
    stored = opened.stored
    total = sum(record.nbytes for record in stored.records.values())
    watch.phase("read", total)
    with open_source(stored, opened.layout.entries) as source:
        for name in opened.layout.entries:
            source.check(name)
        for record in stored.records.values():
            for start in range(0, record.nbytes, _PIECE):
                size = min(_PIECE, record.nbytes - start)
                source.pread(record, start, size)
                watch.progress(size)
    return total, sum(record.crc is not None for record in stored.records.values())


def _require_revision_schema(prepared: Prepared, known: Mapping[str, Replay]) -> None:
    """VerificationError CKM620 where the tensors are those of another revision than the tag's."""
    fitting = candidates(prepared.opened.schema, known)
    if fitting and prepared.to_revision not in fitting:
        history = prepared.history
        raise VerificationError(
            "CKM620",
            f"the tag says {revision_text(history, prepared.to_revision)}, the tensors do not",
            where=str(prepared.opened.stored.path),
            details=tuple(f"they fit {revision_text(history, rev)}" for rev in fitting),
            why="The file was changed after it was tagged, or a script was edited since.",
            fix="`ckmigrate identify` shows both; `ckmigrate stamp` corrects a wrong tag.",
        )


def _prove(prepared: Prepared) -> None:
    """Values of tied entries, and a strict load, where there is a model for this revision."""
    stored, layout = prepared.opened.stored, prepared.opened.layout
    with open_source(stored, layout.entries) as source:
        check_claims(prepared.plan.checks, source)
    if prepared.target is not None:
        strictly_loads(stored, layout.entries, prepared)


def _answer(prepared: Prepared, read: tuple[int, int]) -> Answer:
    history, identity = prepared.history, prepared.identity
    facts = [
        f"{bytes_text(read[0])} read",
        f"{counted(read[1], 'checksum')} right" if read[1] else "the format has no checksums",
        f"at {revision_text(history, identity.revision)} by {printable(identity.evidence)}",
        _fit(prepared),
    ]
    scripts = history.path_up(None, identity.revision)
    unproved = [script.path.name for script in scripts if script.has_verify]
    data = {
        **identity_data(history, identity),
        "bytes": read[0],
        "checksums": read[1],
        "compared_with": prepared.compared,
        "strict_load": prepared.target is not None,
        "not_run": unproved,
        "notes": list(prepared.notes),
    }
    lines = [f"ok {printable(prepared.opened.stored.path)}: {', '.join(facts)}"]
    if unproved:
        names = ", ".join(map(printable, unproved))
        lines.append(f"  not run, for they need the old checkpoint: verify() of {names}")
    lines += [f"  note: {printable(note)}" for note in prepared.notes]
    return Answer(data, "\n".join(lines), outcome="verified")


def _fit(prepared: Prepared) -> str:
    if prepared.target is not None:
        return f"loads strictly into {printable(prepared.target.factory)}"
    if prepared.compared is not None:
        return f"its tensors are those of {printable(prepared.compared)}"
    return "compared with no model"
