"""The renames of a draft: what hints say, then moved subtrees, then single modules and entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import Family, families, singles
from ckmigrate.autogenerate.moves import Move, moves
from ckmigrate.autogenerate.patterns import rename_call, renames
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.names import pair

__all__ = ["propose_given", "propose_modules", "propose_proven", "propose_subtrees"]

_MOST_ALTERNATIVES = 5
_CLEARLY = 0.15
"""How much more alike the first choice must be than the second to be a guess, not a question."""


def propose_given(board: Board, given: Sequence[tuple[str, str]]) -> None:
    """What somebody said: taken as it is."""
    for old, new in given:
        pairs = pair(old, new, board.state.entries)
        moved = tuple(pairs), tuple(pairs.values())
        board.add(Proposal("rename", rename_call((old, new)), *moved, "certain", "as you said"))


def propose_proven(board: Board, equal: Mapping[str, str]) -> None:
    """Entries whose content was found under another name."""
    pairs = {
        old: new
        for new, old in equal.items()
        if old in board.vanished
        and new in board.appeared
        and board.schema[old] == board.new.schema[new]
    }
    board.rename(pairs, "certain", "equal content")


def propose_subtrees(board: Board) -> None:
    """Moves that much below them speaks for, most names first; what is left is looked at again."""
    while _propose_strong(board, families(board.vanished), families(board.appeared), "certain"):
        pass


def propose_modules(board: Board) -> None:
    """What is left: single modules, whose shapes alone speak; then places with other numbers."""
    while _propose_weak(board, families(board.vanished), families(board.appeared)):
        pass
    # With a number gone from a name, or come to it, it is another place of a list, or none.
    while _propose_strong(board, singles(board.vanished), singles(board.appeared), "guess"):
        pass
    while _propose_weak(board, singles(board.vanished), singles(board.appeared)):
        pass


def _propose_strong(board: Board, old: list[Family], new: list[Family], surest: Certainty) -> bool:
    strong = [move for move in moves(old, new) if move.inner >= 2]
    return any(_propose_subtree(board, move, strong, surest) for move in strong)


def _propose_weak(board: Board, old: list[Family], new: list[Family]) -> bool:
    found = sorted(moves(old, new), key=lambda move: _score(board, move), reverse=True)
    return any(_propose_module(board, move, found) for move in found)


def _propose_subtree(board: Board, move: Move, others: Sequence[Move], surest: Certainty) -> bool:
    carried = _carried(board, move)
    is_most = 2 * len(move.pairs) >= len(carried)
    certain = not move.rivals and is_most
    alternatives = _alternatives(board, [o for o in others if (o.old, o.new) in move.rivals])
    why = f"{_counted(carried)}, all names kept but {_told(move)}"
    if move.rivals:
        why += "; the same names stand elsewhere too"
    return board.rename(carried, surest if certain else "guess", why, alternatives)


def _carried(board: Board, move: Move) -> dict[str, str]:
    """Everything below the old head, where all of it left; else what the move explains."""
    old, new = "".join(f"{part}." for part in move.old), "".join(f"{part}." for part in move.new)
    if "#" in move.old:
        return move.pairs
    below = [name for name in board.state.entries if name.startswith(old)]
    gone = board.vanished
    moved = {name: new + name[len(old) :] for name in below}
    if all(name in gone for name in below) and not any(
        n in board.state.entries for n in moved.values()
    ):
        return moved
    return move.pairs


def _propose_module(board: Board, move: Move, others: Sequence[Move]) -> bool:
    ours = {one.path for one, _ in move.votes}, {one.path for _, one in move.votes}
    rivals = [
        other
        for other in others
        if other is not move
        and (
            ours[0] & {one.path for one, _ in other.votes}
            or ours[1] & {one.path for _, one in other.votes}
        )
    ]
    score = _score(board, move)
    close = [other for other in rivals if _is_close(_score(board, other), score)]
    alternatives = _alternatives(board, rivals)
    carried = _carried(board, move)
    pairs = carried if board.appeared.keys() >= set(carried.values()) else move.pairs
    why = f"{_counted(move.pairs)} of equal shape"
    if close:
        return board.rename(pairs, "ambiguous", f"{why}, as others", alternatives)
    return board.rename(pairs, "guess", why, alternatives)


def _alternatives(board: Board, others: Sequence[Move]) -> tuple[Proposal, ...]:
    found = []
    for other in others[:_MOST_ALTERNATIVES]:
        parts = renames(other.pairs, (board.state.entries,))
        call = "\n".join(rename_call(rename) for rename, _ in parts)
        names = tuple(other.pairs), tuple(other.pairs.values())
        why = f"{_counted(other.pairs)}, {_told(other)}"
        found.append(Proposal("rename", call, *names, "guess", why))
    return tuple(found)


def _score(board: Board, move: Move) -> tuple[bool, int, float]:
    """Whole modules first, then the longer common beginning, then the more alike name."""
    same = 0
    while same < min(len(move.old), len(move.new)) and move.old[same] == move.new[same]:
        same += 1
    likeness = SequenceMatcher(None, ".".join(move.old), ".".join(move.new), autojunk=False).ratio()
    return _is_whole(board, move), same, likeness


def _is_whole(board: Board, move: Move) -> bool:
    """Whether every entry of the modules left, and every entry of the new ones is made."""
    sides = ((board.vanished, set(move.pairs)), (board.appeared, set(move.pairs.values())))
    return all(_beside(names, some) == some for names, some in sides)


def _beside(names: Collection[str], some: Collection[str]) -> set[str]:
    parents = {name.rpartition(".")[0] for name in some}
    return {name for name in names if name.rpartition(".")[0] in parents}


def _is_close(other: tuple[bool, int, float], best: tuple[bool, int, float]) -> bool:
    return other[:2] == best[:2] and best[2] - other[2] < _CLEARLY


def _told(move: Move) -> str:
    old, new = (".".join(head) or "the root" for head in (move.old, move.new))
    return f"{old} → {new}"


def _counted(pairs: Mapping[str, str]) -> str:
    return f"{len(pairs)} entries" if len(pairs) != 1 else "one entry"
