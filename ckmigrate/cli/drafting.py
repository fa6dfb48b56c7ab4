"""`ckmigrate revision --autogenerate`: from the head and the model to a script.

both sides of every model ── make_draft ──▶ Draft ── asked, or --accept ──▶ choices
  ── settle ──▶ Settled ── render, prove by replay ──▶ the script, the lock, the snapshots
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckmigrate.autogenerate.content import open_contents
from ckmigrate.autogenerate.decide import QUESTIONERS, Choice, todo_text
from ckmigrate.autogenerate.initialisers import Initialisers, read_initialisers
from ckmigrate.autogenerate.make import Question, make_draft
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.render import count_todos, format_call, offered_calls, render_body
from ckmigrate.autogenerate.settle import Settled, Side, differences, prove, settle
from ckmigrate.autogenerate.sides import head_snapshot, make_side
from ckmigrate.autogenerate.wishes import Wishes, fitted, parse_rename, read_map
from ckmigrate.autogenerate.words import one_line
from ckmigrate.cli.ask import Asked, ask, can_ask, show_table
from ckmigrate.cli.draft_options import Options
from ckmigrate.cli.files import create
from ckmigrate.cli.session import Answer, Session
from ckmigrate.errors import UsageError
from ckmigrate.fold import fold_names, skeleton
from ckmigrate.locking import write_lock_and_snapshots
from ckmigrate.migrate import Opened, Request, find_target, open_weights, replays
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.report.units import counted
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.revisions.template import new_revision_id, next_file_name, render
from ckmigrate.settings import parse_params
from ckmigrate.strict import compare, describe

__all__ = ["draft_revision"]

_UNWRITTEN: Mapping[str, object] = {"file": None, "written": (), "revision": None}


@dataclass(frozen=True, slots=True)
class _Case:
    """What the command was asked, and where."""

    session: Session
    project: Project
    history: History
    options: Options
    message: str
    release: str | None

    @property
    def params(self) -> Mapping[str, object]:
        return {**self.project.params, **parse_params(self.options.params)}


def draft_revision(session: Session, message: str, release: str | None, options: Options) -> Answer:
    """Draft, ask, prove and write; exit code 1 where something is left for a person."""
    project = session.project()
    history = session.history(project)
    case = _Case(session, project, history, options, message, release)
    # A message or a release that no script can have is refused before anybody is asked.
    render(message, revision="0" * 10, revises=None, release=release)
    sides = _sides(case)
    wishes = fitted(_wishes(options), sides)
    if not any(differences(side.old.schema, side.old.ties, side) for side in sides):
        return _nothing_to_do(case, sides)
    with ExitStack() as files:
        contents = _contents(case, sides, files)
        question = Question(sides, wishes, _initialisers(case, sides), contents)
        asked = _decided(case, question)
    if asked.choices is None:
        return _not_written(asked.draft)
    return _written(case, settle(asked.choices, sides), sides)


def _wishes(options: Options) -> Wishes:
    said = Wishes(renames=tuple(map(parse_rename, options.renames)))
    return said if options.map_file is None else said + read_map(options.map_file)


def _sides(case: _Case) -> tuple[Side, ...]:
    project, chosen = case.project, case.options.model
    several = chosen is None and len(project.models) > 1
    names = tuple(project.models) if several else (project.model(chosen)[0],)
    known = replays(project, case.history, case.params)
    olds = [head_snapshot(project, case.history, known, name) for name in names]
    return tuple(
        make_side(old, find_target(project, Request(model=name)), project.exempt)
        for old, name in zip(olds, names, strict=True)
    )


def _initialisers(case: _Case, sides: Sequence[Side]) -> Mapping[str, Initialisers]:
    """By model, how its own modules begin what may be new; it is built for real only for that."""
    return {
        side.model: read_initialisers(
            case.project.models[side.model],
            side.model,
            names,
            python_path=case.project.python_path,
        )
        for side in sides
        if (names := _perhaps_new(side))
    }


def _perhaps_new(side: Side) -> tuple[str, ...]:
    """Names that the head does not have in this shape, and those that differ from them in a number
    only: where a layer was put in between, the last number is new and the layer is another."""
    old, new = side.old.schema, side.new.schema
    kinds = {skeleton(name) for name, spec in new.items() if old.get(name) != spec}
    return tuple(name for name in new if skeleton(name) in kinds)


def _contents(case: _Case, sides: Sequence[Side], files: ExitStack) -> Mapping[str, Any]:
    """By model, the two checkpoints of an --against; UsageError CKM257 where they are of none that
    has no pair yet."""
    found: dict[str, Any] = {}
    for pair in case.options.against:
        old, new = (open_weights(path, case.project, Request()) for path in pair)
        free = [side for side in sides if side.model not in found]
        unlike = {side.model: _unlike(side, (old, new)) for side in free}
        model = next((name for name, lines in unlike.items() if not lines), None)
        if model is None:
            raise _of_none(pair, next(iter(unlike.values()), ()))
        name = f" of model '{model}'" if len(sides) > 1 else ""
        case.session.note(f"note: comparing the contents of the two checkpoints{name}")
        found[model] = files.enter_context(open_contents(old, new))
    return found


def _unlike(side: Side, pair: Sequence[Opened]) -> tuple[str, ...]:
    """Where two checkpoints are not one of the head and one of the model."""
    both = zip(("OLD", "NEW"), pair, (side.old, side.new), strict=True)
    return tuple(
        f"{word}: {line}"
        for word, found, wanted in both
        for line in describe(
            compare(found.schema, wanted.schema, exempt=side.exempt), found=word, wanted="side"
        )
    )


def _of_none(pair: Sequence[Path], lines: Sequence[str]) -> UsageError:
    return UsageError(
        "CKM257",
        "the two checkpoints are not one of the head and one of the model",
        where=" and ".join(map(str, pair)),
        details=tuple(lines[:10]),
        why="Contents are proof only between a checkpoint at the head revision and the same "
        "weights under the names and shapes that the model has now; one pair for each model.",
        fix="Upgrade OLD to the head first (ckmigrate upgrade OLD); convert NEW by hand, or leave "
        "--against out.",
    )


def _decided(case: _Case, question: Question) -> Asked:
    draft = make_draft(question)
    session, accept = case.session, case.options.accept
    if accept is None and can_ask(session):
        return ask(session, draft, lambda choices: make_draft(question, choices))
    if not session.quiet and session.is_text:
        show_table(session, draft)
    return Asked(draft, QUESTIONERS[accept or "certain"](draft))


def _written(case: _Case, settled: Settled, sides: Sequence[Side]) -> Answer:
    history, parent = case.history, case.history.require_single_head()
    revision, body = new_revision_id(), render_body(settled)
    text = render(
        case.message,
        revision=revision,
        revises=parent,
        release=case.release,
        body=body,
        offered=offered_calls(settled),
    )
    path = case.project.migrations / next_file_name(history, case.message)
    if settled.is_complete:
        prove(text, path, revision, sides, case.params)
    files = (path, *_write(case, path, text))
    data = {
        "file": str(path),
        "written": [str(file) for file in files],
        "revision": revision,
        "revises": [parent] if parent else [],
        "release": case.release,
        **_draft_data(settled),
    }
    builds_on = history.label(parent) if parent else "base"
    head = f"wrote {', '.join(map(_shown, files))}: revision {revision}, builds on {builds_on}"
    lines = [head, *_lines(settled)]
    if not settled.is_complete:
        lines.append(f"not finished: {_to_replace(settled)} in {path.name}")
    return Answer(data, "\n".join(lines), 0 if settled.is_complete else 1)


def _write(case: _Case, path: Path, text: str) -> tuple[Path, ...]:
    """The script and, where a lock is kept, its line and the head snapshots; all or none. The files
    besides the script."""
    create(path, text)
    if not case.project.lock_path.exists():
        return ()
    try:
        history = read_history(case.project.migrations)
        known = replays(case.project, history, case.params)
        return write_lock_and_snapshots(case.project, history, known)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _lines(settled: Settled) -> Iterator[str]:
    """The calls that were written, and what is open."""
    for choice in settled.choices:
        if choice.chosen is not None:
            yield from (f"  {line}" for line in format_call(choice.chosen.call).splitlines())
        else:
            yield f"  todo: {_open_text(choice)}"
    for line in settled.left:
        yield f"  todo: {printable(line)}"


def _to_replace(settled: Settled) -> str:
    """As many todos as are listed; in the script, those of one kind and reason share a call."""
    listed, calls = len(settled.open) + len(settled.left), count_todos(settled)
    shared = f", which share {counted(calls, 'ck.todo')}" if calls < listed else ""
    return f"{counted(listed, 'todo')} to replace{shared}"


def _open_text(choice: Choice) -> str:
    text = todo_text(choice.proposal)
    if text is None:
        call = one_line(choice.proposal.call) or choice.proposal.kind
        text = f"{call} — {choice.proposal.why}"
    return printable(f"{text}; {choice.obstacle}" if choice.obstacle else text)


def _nothing_to_do(case: _Case, sides: Sequence[Side]) -> Answer:
    names = ", ".join(f"'{side.model}'" for side in sides)
    at = case.history.require_single_head()
    head = case.history.label(at) if at else "base"
    text = f"nothing to do: the migrations lead to model {names} already (head {head})"
    return Answer({**_UNWRITTEN, "proposals": [], "left": []}, text)


def _not_written(draft: Draft) -> Answer:
    data = {**_UNWRITTEN, **_draft_data(Settled(_undecided(draft)))}
    return Answer(data, "nothing was written: the draft was not accepted", 1)


def _undecided(draft: Draft) -> tuple[Choice, ...]:
    return tuple(Choice(proposal, None) for proposal in draft.proposals)


def _draft_data(settled: Settled) -> dict[str, object]:
    proposals = [
        {
            **_proposal_data(choice.proposal),
            "written": None if choice.chosen is None else choice.chosen.call,
            "obstacle": choice.obstacle or None,
        }
        for choice in settled.choices
    ]
    return {"proposals": proposals, "left": list(settled.left)}


def _proposal_data(proposal: Proposal) -> dict[str, object]:
    return {
        "kind": proposal.kind,
        "call": proposal.call,
        "sources": list(fold_names(proposal.sources)),
        "targets": list(fold_names(proposal.targets)),
        "certainty": proposal.certainty,
        "why": proposal.why,
        "alternatives": [{"call": p.call, "why": p.why} for p in proposal.alternatives],
    }


def _shown(path: Path) -> str:
    try:
        return printable(path.relative_to(Path.cwd()))
    except ValueError:
        return printable(path)
