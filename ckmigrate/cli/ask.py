"""The one question of a draft, on a terminal: accept, edit, none.

Table and question go to stderr, so that stdout holds the answer alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.autogenerate.decide import Choice, accept_likely
from ckmigrate.autogenerate.edit import parse_edited, render_edit
from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.autogenerate.table import draft_table
from ckmigrate.cli.session import Session
from ckmigrate.errors import CkmigrateError, UsageError

__all__ = ["Asked", "ask", "can_ask", "show_table"]

Redraft = Callable[[Mapping[str, str]], Draft]

_ANSWERS = {"a": "accept", "e": "edit", "n": "none", "y": "accept", "yes": "accept", "no": "none"}
_ANSWERS |= {word: word for word in ("accept", "edit", "none")}


@dataclass(frozen=True, slots=True)
class Asked:
    """The draft that was decided on, which an edit may have changed; no choices: nothing is to be
    written."""

    draft: Draft
    choices: tuple[Choice, ...] | None


def can_ask(session: Session) -> bool:
    """Whether somebody is there: a terminal to read from and to write to."""
    streams = (sys.stdin, sys.stderr)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and not session.no_input and session.is_text


def show_table(session: Session, draft: Draft, *, asking: bool = False) -> None:
    """The table, as wide as the terminal; whole lines where there is none."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    session.tell(draft_table(draft, width=width, asking=asking))


def ask(session: Session, draft: Draft, redraft: Redraft) -> Asked:
    """Show the draft and ask once; again only where an edit could not be read, or where a choice
    led to proposals that nobody has seen yet."""
    text = None
    while True:
        show_table(session, draft, asking=True)
        answer = _answer(session, draft)
        if answer == "none":
            return Asked(draft, None)
        if answer == "accept":
            return Asked(draft, accept_likely(draft))
        text = _edited(text or render_edit(accept_likely(draft)))
        try:
            choices = parse_edited(text, draft)
            asked = Asked(draft, None) if choices is None else _followed(draft, choices, redraft)
        except UsageError as error:
            session.complain(error)
            continue
        if choices is None or asked.choices is not None:
            return asked
        draft, text = asked.draft, None


def _answer(session: Session, draft: Draft) -> str:
    """The word that was chosen; the end of the input is a no."""
    ambiguous = sum(proposal.certainty == "ambiguous" for proposal in draft.proposals)
    stays = f" ({ambiguous} ambiguous: a todo each)" if ambiguous else ""
    while True:
        session.prompt(f"Write this migration{stays}? accept, edit, none [a/e/n]: ")
        line = sys.stdin.readline()
        if not line:
            session.tell("")
            return "none"
        answer = _ANSWERS.get(line.strip().lower())
        if answer is not None:
            return answer


def _followed(draft: Draft, choices: Sequence[Choice], redraft: Redraft) -> Asked:
    """What the choices lead to; no choices where the draft is now another one, to be shown."""
    other = {c.proposal.call: c.chosen for c in choices if c.chosen and _is_other(c)}
    if not other:
        return Asked(draft, tuple(choices))
    after = _redrafted(redraft, {call: chosen.call for call, chosen in other.items()})
    told = {c.proposal.call: c.chosen for c in choices if not _is_other(c)}
    told |= other | {chosen.call: chosen for chosen in other.values()}
    if not all(proposal.call in told for proposal in after.proposals):
        return Asked(after, None)
    return Asked(after, tuple(Choice(p, told[p.call]) for p in after.proposals))


def _redrafted(redraft: Redraft, choices: Mapping[str, str]) -> Draft:
    try:
        return redraft(choices)
    except CkmigrateError as error:
        why = error.what
    except Exception as error:  # noqa: BLE001 - a person may have written anything
        why = f"{type(error).__name__}: {error}"
    raise UsageError(
        "CKM254",
        "the edited draft cannot be followed",
        details=tuple(choices.values()),
        why=why,
        fix="Edit it once more, or answer none; nothing was written.",
    )


def _is_other(choice: Choice) -> bool:
    return choice.chosen is not None and choice.chosen.call != choice.proposal.call


def _edited(text: str) -> str:
    """The text after the user's editor; UsageError CKM253 without one, or where it fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise UsageError(
            "CKM253",
            "there is no editor to edit the draft with",
            why="neither VISUAL nor EDITOR is set",
            fix='Set one, such as EDITOR="nano"; or answer with --accept, --rename and --map.',
        )
    with tempfile.TemporaryDirectory(prefix="ckmigrate-") as folder:
        path = Path(folder) / "draft.txt"
        path.write_text(text, encoding="utf-8")
        _run(editor, path)
        return path.read_text(encoding="utf-8", errors="replace")


def _run(editor: str, path: Path) -> None:
    try:
        # stdout is kept for the answer; an editor draws on the terminal, which stderr is.
        done = subprocess.run([*shlex.split(editor), str(path)], stdout=sys.stderr, check=False)
        why = f"it ended with exit code {done.returncode}" if done.returncode else None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    if why is not None:
        raise UsageError(
            "CKM253",
            f"the editor '{editor}' failed; nothing was written",
            why=why,
            fix="Set VISUAL or EDITOR to a program that edits the file it is given.",
        )
