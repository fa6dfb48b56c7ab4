"""The renames of a draft: what hints say, then moved subtrees, then single modules and entries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

from ckmigrate.autogenerate.alike import propose_alike
from ckmigrate.autogenerate.board import Board, counted
from ckmigrate.autogenerate.carry import carried
from ckmigrate.autogenerate.families import Family, families, singles
from ckmigrate.autogenerate.moves import Move, moves, uncontested
from ckmigrate.autogenerate.patterns import rename_call, renames
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.spelled import propose_spelled
from ckmigrate.names import pair

__all__ = ["propose_given", "propose_modules", "propose_subtrees"]

_MOST_ALTERNATIVES = 5
_MOST_CALLS = 4
"""Of one alternative: more would be a list of names."""
_LIKE = 0.6
_CLEARLY = 0.15
"""How much more alike the first choice must be than the second to be a guess, not a question."""


def propose_given(board: Board, given: Sequence[tuple[str, str]]) -> None:
    """What somebody said: taken as it is, and never dropped afterwards."""
    for old, new in given:
        pairs = pair(old, new, board.state.entries)
        moved = tuple(pairs), tuple(pairs.values())
        board.add(Proposal("rename", rename_call((old, new)), *moved, "certain", "as you said"))
        board.wished |= set(pairs.values())


def propose_subtrees(board: Board) -> None:
    """Moves that much below them speaks for, most names first; what is left is looked at again."""
    while (
        _propose_strong(board, families(board.vanished), families(board.appeared), "certain")
        or propose_spelled(board)
        or propose_alike(board)
    ):
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
    for move in strong:
        sure = surest if uncontested(move, old, new) >= 2 else "guess"
        if _propose_subtree(board, move, strong, sure):
            return True
    return False


def _propose_weak(board: Board, old: list[Family], new: list[Family]) -> bool:
    alike = [move for move in moves(old, new) if _is_likely(board, move)]
    found = sorted(alike, key=lambda move: _score(board, move), reverse=True)
    return any(_propose_module(board, move, found) for move in found)


def _propose_subtree(board: Board, move: Move, others: Sequence[Move], surest: Certainty) -> bool:
    pairs = carried(board, move.old, move.new, move.pairs)
    is_most = 2 * len(move.pairs) >= sum(new in board.appeared for new in pairs.values())
    certain = not move.rivals and is_most and not _is_torn(board, move)
    alternatives = _alternatives(board, [o for o in others if (o.old, o.new) in move.rivals])
    why = f"all names kept but {_told(move)}"
    if move.rivals:
        why += "; the same names stand elsewhere too"
    return board.rename(pairs, surest if certain else "guess", why, alternatives)


def _is_torn(board: Board, move: Move) -> bool:
    """Whether a module would leave some of its entries behind, or find some there already."""
    sides = (
        (board.schema, board.vanished, set(move.pairs)),
        (board.new.schema, board.appeared, set(move.pairs.values())),
    )
    return any(name not in free for names, free, some in sides for name in _beside(names, some))


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
    pairs = carried(board, move.old, move.new, move.pairs)
    if not board.appeared.keys() >= set(pairs.values()):
        pairs = move.pairs
    why = "equal in shape"
    if close:
        return board.rename(pairs, "ambiguous", f"{why}, as others are", alternatives)
    return board.rename(pairs, "guess", why, alternatives)


def _alternatives(board: Board, others: Sequence[Move]) -> tuple[Proposal, ...]:
    found = []
    for other in others[:_MOST_ALTERNATIVES]:
        parts = renames(other.pairs, (board.state.entries,))
        if len(parts) > _MOST_CALLS:
            continue
        call = "\n".join(rename_call(rename) for rename, _ in parts)
        names = tuple(other.pairs), tuple(other.pairs.values())
        why = f"{counted(other.pairs)}, {_told(other)}"
        found.append(Proposal("rename", call, *names, "guess", why))
    return tuple(found)


def _score(board: Board, move: Move) -> tuple[bool, int, float]:
    """Whole modules first, then the longer common beginning, then the more alike name."""
    same = 0
    while same < min(len(move.old), len(move.new)) and move.old[same] == move.new[same]:
        same += 1
    return _is_whole(board, move), same, _likeness(move)


def _is_likely(board: Board, move: Move) -> bool:
    """More than a shape in common: a whole module, one beside it, or a name that is like it."""
    is_beside = move.old[:-1] == move.new[:-1]
    return is_beside or _is_whole(board, move) or _likeness(move) >= _LIKE


def _likeness(move: Move) -> float:
    old, new = ".".join(move.old), ".".join(move.new)
    return SequenceMatcher(None, old, new, autojunk=False).ratio()


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
