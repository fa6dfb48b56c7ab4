"""Which proposals of a draft are written: questioners, as strategies.

A questioner turns a draft into choices, one for each proposal and in the same order, or into None:
nothing is to be written. Those that need nobody are here; the one that asks a person is made of the
same parts by the command line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckmigrate.autogenerate.proposal import Certainty, Draft, Proposal

__all__ = [
    "QUESTIONERS",
    "Choice",
    "Questioner",
    "accept_all",
    "accept_certain",
    "accept_likely",
    "accept_none",
    "can_run",
    "todo_text",
]

_TODO = re.compile(r"\s*ck\s*\.\s*todo\b")


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one proposal.

    chosen    what is written: the proposal, one of its alternatives, or what a person wrote for it;
              None: it stays open, as a todo
    obstacle  why something that was chosen stays open all the same
    """

    proposal: Proposal
    chosen: Proposal | None
    obstacle: str = ""


Questioner = Callable[[Draft], "tuple[Choice, ...] | None"]


def can_run(proposal: Proposal) -> bool:
    """Whether the proposal has a call that does something; the engine may have none to offer."""
    return bool(proposal.call.strip()) and not _TODO.match(proposal.call)


def todo_text(proposal: Proposal) -> str | None:
    """What the `ck.todo("…")` of a proposal that has nothing to offer says; None for others."""
    if not _TODO.match(proposal.call):
        return None
    found = [n.value for n in ast.walk(ast.parse(proposal.call)) if isinstance(n, ast.Constant)]
    return str(found[0]) if found else ""


def accept_certain(draft: Draft) -> tuple[Choice, ...]:
    """What is certain; all else stays open."""
    return _accepted(draft, {"certain"})


def accept_likely(draft: Draft) -> tuple[Choice, ...]:
    """What is certain, and the guesses; what is ambiguous stays open."""
    return _accepted(draft, {"certain", "guess"})


def accept_all(draft: Draft) -> tuple[Choice, ...]:
    """Everything; of what is ambiguous, the likeliest."""
    return _accepted(draft, {"certain", "guess", "ambiguous"})


def accept_none(draft: Draft) -> None:
    """Nothing: the draft is only shown."""


QUESTIONERS: Mapping[str, Questioner] = {
    "certain": accept_certain,
    "all": accept_all,
    "none": accept_none,
}
"""By the value of --accept."""


def _accepted(draft: Draft, certainties: set[Certainty]) -> tuple[Choice, ...]:
    return tuple(
        Choice(p, p if p.certainty in certainties and can_run(p) else None) for p in draft.proposals
    )
