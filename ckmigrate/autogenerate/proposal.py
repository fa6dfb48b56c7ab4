"""What a draft is made of: calls of a migration script, each with how sure it is, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Certainty", "Draft", "Hints", "Proposal"]

Certainty = Literal["certain", "guess", "ambiguous"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One call of a script, and the entries that it explains.

    kind          "rename", "split", "concat", "stack", "unstack", "reshape", "squeeze", "resize",
                  "transpose", "cast", "init", "drop", "tie", "untie", "copy" or "todo"
    call          the Python text: 'ck.rename("transformer.**", "encoder.**")'; may be several lines
    sources       every name that it takes, as the names are when its turn comes
    targets       every name that it gives
    certainty     "certain": the names say it and nothing else can be meant; "guess": likely;
                  "ambiguous": `call` is merely the first of several readings, or a `ck.todo`
    why           one short phrase: "24 entries, all names kept but the first segment"
    alternatives  other readings, the likelier first, at most five. What follows in the draft fits
                  `call`: whoever prefers another asks for a new draft (`Hints.choices`)
    """

    kind: str
    call: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    certainty: Certainty
    why: str
    alternatives: tuple[Proposal, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposals in the order in which their calls must run.

    All calls together turn the old schema into the new one; whatever they could not explain stands
    among them as a `ck.todo`. The certain calls alone run too, in the same order.
    """

    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known beyond names and shapes.

    renames  (old pattern, new pattern) that somebody gave; they come first, as they are
    equal    new name → old name of an entry with the same content: proof
    choices  call of a proposal → the call that somebody wants in its place: one of its
             alternatives, or their own; "" for none. A draft is the same for the same schemas and
             hints, so a new draft with the choices among its hints meets the same proposals up to
             the first choice, and fits what follows to it
    """

    renames: tuple[tuple[str, str], ...] = ()
    equal: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
