"""What no step of a draft explains."""

from __future__ import annotations

from collections.abc import Iterable

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.replay import remainder
from ckmigrate.fold import fold_names
from ckmigrate.names import nearest
from ckmigrate.strict import Difference, describe, describe_ties

__all__ = ["propose_todos"]


def propose_todos(board: Board, fresh: Fresh) -> None:
    """One `ck.todo` for each line of what is left."""
    left = remainder(board.state, board.new)
    doubts: dict[str, list[str]] = {}
    rest = []
    for difference in left.differences:
        if difference.kind == "missing" and fresh.cannot_make(difference.name):
            doubts.setdefault(fresh.doubt(difference.name), []).append(difference.name)
        else:
            rest.append(difference)
    for doubt, names in doubts.items():
        for folded in fold_names(names):
            _todo(board, f"{folded} is new: {doubt}", "no initialiser can make it")
    hints = _hints(rest, board)
    for line in (*describe(rest), *describe_ties(left.ties)):
        words = line.split()
        _todo(board, " ".join(words) + hints.get(words[1], ""), "not explained")


def _hints(differences: Iterable[Difference], board: Board) -> dict[str, str]:
    """By folded name: that a wish gave an entry a name which the model does not have, perhaps by a
    slip, and which names are near."""
    named = [d.name for d in differences if d.kind == "unexpected" and d.name in board.wished]
    hints = {}
    for pattern in fold_names(named):
        near = nearest(named[0] if len(named) == 1 else pattern, [*board.new.schema])
        told = f", which has {', '.join(near)}" if near else ""
        hints[pattern] = f"; renamed so as you said, to what is not in the model{told}"
    return hints


def _todo(board: Board, text: str, why: str) -> None:
    call = f"ck.todo({quoted(text)})"
    board.proposals.append(Proposal("todo", call, (), (), "ambiguous", why))
