"""What no step of a draft explains."""

from __future__ import annotations

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.replay import remainder
from ckmigrate.fold import fold_names
from ckmigrate.strict import describe, describe_ties

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
    for line in (*describe(rest), *describe_ties(left.ties)):
        _todo(board, " ".join(line.split()), "not explained")


def _todo(board: Board, text: str, why: str) -> None:
    call = f"ck.todo({quoted(text)})"
    board.proposals.append(Proposal("todo", call, (), (), "ambiguous", why))
