"""Names that began or ceased to share one tensor."""

from __future__ import annotations

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.replay import remainder

__all__ = ["propose_second_names", "propose_ties"]


def propose_second_names(board: Board) -> None:
    """Names that are new and tied to one that is there; names that went from a group that stays."""
    for group in board.new.ties:
        known = [name for name in group if name in board.schema]
        for name in group if known else ():
            if name in board.appeared and board.schema[known[0]] == board.new.schema[name]:
                _add_name(board, known[0], name)
    for group in board.state.ties:
        kept = [name for name in group if name in board.new.schema]
        for name in group if kept else ():
            if name in board.vanished and name not in board.wished:
                _drop_name(board, name, kept[0])


def propose_ties(board: Board) -> None:
    """Groups that differ among the names that both sides have."""
    for difference in remainder(board.state, board.new).ties:
        first, *others = difference.names
        if difference.kind == "tied":
            call = f"ck.untie({quoted(first)})"
            why = "one tensor in the old model, several in the new; each keeps the values"
            board.add(_proposal("untie", call, difference.names, "certain", why))
            continue
        for other in others:
            if board.schema[first] == board.schema[other]:
                _tie(board, first, other)


def _add_name(board: Board, known: str, name: str) -> None:
    call = f"ck.tie({quoted(known)}, {quoted(name)})"
    spec = board.new.schema[name]
    asked = board.may_be_given(spec, board.vanished.values())
    certainty: Certainty = "guess" if asked else "certain"
    names = (known,), (known, name)
    why = f"new, and the same tensor as {known} in the model"
    board.add(Proposal("tie", call, *names, certainty, why))


def _drop_name(board: Board, name: str, kept: str) -> None:
    reason = f"the same tensor as {kept}"
    call = f"ck.drop({quoted(name)}, reason={quoted(reason)}, expect={quoted(kept)})"
    spec = board.schema[name]
    asked = board.may_be_wanted(spec)
    certainty: Certainty = "guess" if asked else "certain"
    why = f"its values stay under {kept}"
    board.add(Proposal("drop", call, (name, kept), (kept,), certainty, why))


def _tie(board: Board, first: str, other: str) -> None:
    """Both were trained apart, so whose values stay is a question."""

    def instead(kept: str, gone: str) -> Proposal:
        reason = f"shares the tensor of {kept} now"
        lines = (
            f"ck.drop({quoted(gone)}, reason={quoted(reason)})",
            f"ck.tie({quoted(kept)}, {quoted(gone)})",
        )
        why = f"the values of {kept} stay, those of {gone} are dropped"
        return _proposal("tie", "\n".join(lines), (first, other), "guess", why)

    call = f"ck.tie({quoted(first)}, {quoted(other)})"
    why = "one tensor in the new model; refused where a checkpoint holds unequal values"
    others = (instead(first, other), instead(other, first))
    names = (first, other)
    board.add(Proposal("tie", call, names, names, "guess", why, others))


def _proposal(
    kind: str, call: str, names: tuple[str, ...], certainty: Certainty, why: str
) -> Proposal:
    return Proposal(kind, call, names, names, certainty, why)
