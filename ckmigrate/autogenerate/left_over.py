"""What no step of a draft explains."""

from __future__ import annotations

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.replay import remainder
from ckmigrate.strict import describe, describe_ties

__all__ = ["propose_todos"]


def propose_todos(board: Board) -> None:
    """One `ck.todo` for each line of what is left."""
    left = remainder(board.state, board.new)
    for line in (*describe(left.differences), *describe_ties(left.ties)):
        text = " ".join(line.split())
        call = f"ck.todo({quoted(text)})"
        board.proposals.append(Proposal("todo", call, (), (), "ambiguous", "not explained"))
