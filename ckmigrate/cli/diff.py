"""`ckmigrate diff`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ckmigrate.cli.app import Verb, pass_session
from ckmigrate.cli.options import make_request, reading_options
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import IdentifyError, UsageError
from ckmigrate.fold import fold
from ckmigrate.migrate import Request, find_target, open_weights, replays
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.report.json import entry_data
from ckmigrate.report.schema import shape_text
from ckmigrate.revisions.targets import resolve
from ckmigrate.spec import Schema, TensorSpec

__all__ = ["command"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")

_Pair = tuple[TensorSpec | None, TensorSpec | None]


@click.command("diff", cls=Verb)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@reading_options
@click.option("--model", metavar="NAME", help="Which of several models, or of their snapshots.")
@pass_session
def command(session: Session, first: str, second: str, **options: Any) -> Answer:
    """Compare names, shapes and dtypes of two sides; values are not compared. A side is a
    checkpoint file, the word `model` (./model for a file of this name), or a revision: what the
    committed snapshot is there. Exit code 1 where they differ.

    \b
    Example:  ckmigrate diff old.ckpt new.ckpt
              ckmigrate diff head model
    """
    request = make_request(**options)
    project = session.project()
    one, other = (_side(session, project, text, request) for text in (first, second))
    return _answer(first, second, one, other)


def _side(session: Session, project: Project, text: str, request: Request) -> Schema:
    if text == "model":
        return find_target(project, request).schema
    path = Path(text)
    if path.exists() or path.suffix in _SUFFIXES or "/" in text:
        return open_weights(path, project, request).schema
    return _of_revision(session, project, text, request)


def _of_revision(session: Session, project: Project, text: str, request: Request) -> Schema:
    """The schema of a revision; UsageError CKM238 without a snapshot, CKM239 where it ends."""
    history = session.history(project)
    try:
        revision = resolve(history, text)
    except IdentifyError as error:
        error.details += (f"{text} is no file either",) if error.code == "CKM401" else ()
        raise
    known = replays(project, history, request.params)
    name = request.model or ("default" if "default" in known else next(iter(known), None))
    if name is None or name not in known:
        raise UsageError(
            "CKM238",
            f"there is no base snapshot{f' of {name!r}' if name else ''} to lead to a revision",
            where=str(project.snapshot_path("any").parent),
            fix="Create one: ckmigrate init --from-checkpoint PATH; or name a file.",
        )
    schema = known[name].schema(revision)
    if schema is None:
        reasons = [error.what for error in known[name].failures.values()]
        raise UsageError(
            "CKM239",
            f"the snapshot '{name}' cannot be led to {history.label(revision)}",
            details=tuple(reasons[:3]),
            fix="`ckmigrate check --no-model` tells more; or name a file at that revision.",
        )
    return schema


def _answer(first: str, second: str, one: Schema, other: Schema) -> Answer:
    names = dict.fromkeys((*one, *other))
    pairs: dict[str, _Pair] = {
        name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)
    }
    data = {
        "same": not pairs,
        "only_in_first": [entry_data(n, a) for n, (a, b) in pairs.items() if a and not b],
        "only_in_second": [entry_data(n, b) for n, (a, b) in pairs.items() if b and not a],
        "changed": [
            {"name": n, "first": entry_data(n, a), "second": entry_data(n, b)}
            for n, (a, b) in pairs.items()
            if a and b
        ],
    }
    if not pairs:
        text = f"no difference: {len(one)} entries with the same names, shapes and dtypes"
        return Answer(data, text)
    return Answer(data, "\n".join(_lines(first, second, pairs)), 1)


def _lines(first: str, second: str, pairs: dict[str, _Pair]) -> Iterator[str]:
    """`-` only in A, `+` only in B, `~` in both with another shape or dtype."""
    yield f"--- {printable(first)}"
    yield f"+++ {printable(second)}"
    count = {"-": 0, "+": 0, "~": 0}
    for line in fold(pairs):
        one, other = line.value
        sign = "~" if one and other else "-" if one else "+"
        count[sign] += len(line.names)
        yield f"{sign} {printable(line.pattern)}  {_specs(one, other)}"
    yield f"{count['-']} only in A, {count['+']} only in B, {count['~']} changed"


def _specs(one: TensorSpec | None, other: TensorSpec | None) -> str:
    texts = [f"{shape_text(spec)} {spec.dtype}" for spec in (one, other) if spec is not None]
    return " → ".join(texts)
