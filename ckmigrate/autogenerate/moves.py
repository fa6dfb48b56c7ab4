"""Subtrees that stand under another name: whole prefixes, modules in every block, modules within.

A move exchanges the head of some names, `transformer` for `encoder` or `blocks.#.attn` for
`blocks.#.self_attn`, and keeps what follows. Every pair of families with equal specs and an equal
end votes for the move that would explain it. Votes are evidence of names, not of shapes: what is
counted is how much below the head kept its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ckmigrate.autogenerate.families import Family, Index
from ckmigrate.spec import TensorSpec

__all__ = ["Move", "moves", "uncontested"]

_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A head exchanged for another.

    votes   the families that it explains, old with new
    rivals  (old, new) of moves that claim some of the same names, with as much evidence
    """

    old: _Path
    new: _Path
    votes: tuple[tuple[Family, Family], ...]
    rivals: tuple[tuple[_Path, _Path], ...] = ()

    @property
    def pairs(self) -> dict[str, str]:
        """Old name → new name, of what it explains."""
        return {
            name: other.members[index]
            for one, other in self.votes
            for index, name in one.members.items()
            if index in other.members
        }

    @property
    def inner(self) -> int:
        """How many modules below the head kept their name, those around others too."""
        return _inner(self.old, self.votes)


def moves(old: Sequence[Family], new: Sequence[Family]) -> list[Move]:
    """Every move with evidence, the one that explains most names first."""
    found: dict[tuple[_Path, _Path], dict[_Path, tuple[Family, Family]]] = defaultdict(dict)
    by_end: dict[object, list[Family]] = defaultdict(list)
    for family in new:
        for end in _ends(family):
            by_end[end].append(family)
    for family in old:
        near = {o.path: o for end in _ends(family) for o in by_end.get(end, ())}
        for other in [other for other in near.values() if _agree(family, other)]:
            same = _common_end(family.path, other.path)
            head = family.path[: len(family.path) - same]
            found[head, other.path[: len(other.path) - same]][family.path] = (family, other)
    raw = [Move(head, other, tuple(votes.values())) for (head, other), votes in found.items()]
    done = [_with_rivals(move, raw) for move in raw if _is_exchange(move)]
    return sorted(done, key=lambda move: (-len(move.pairs), len(move.rivals), move.old, move.new))


def _ends(family: Family) -> set[tuple[str, Index, TensorSpec]]:
    """What families must share to be compared: the leaf, and the first or last member."""
    indices = list(family.specs)
    return {(family.leaf, index, family.specs[index]) for index in (indices[0], indices[-1])}


def _agree(one: Family, other: Family) -> bool:
    """Whether no index has two specs; a list may have grown, or have become shorter."""
    return all(other.specs.get(index, spec) == spec for index, spec in one.specs.items())


def _common_end(one: _Path, other: _Path) -> int:
    """Segments that both share at the end; at least the leaf."""
    same = 1
    while same < min(len(one), len(other)) and one[-1 - same] == other[-1 - same]:
        same += 1
    return same


def _is_exchange(move: Move) -> bool:
    """Numbers must stay the same in both heads: equal indices mean equal places."""
    return move.old.count("#") == move.new.count("#")


def _with_rivals(move: Move, others: Sequence[Move]) -> Move:
    """With the moves that would do something else with the same names, on as good evidence."""
    least = min(move.inner, 2)
    rivals = [
        (other.old, other.new)
        for other in others
        if other is not move and other.inner >= least and _competes(other, move)
    ]
    return Move(move.old, move.new, move.votes, tuple(rivals))


def _competes(other: Move, move: Move) -> bool:
    """Whether it claims a family that `move` explains, and keeps as much of its name or of them."""
    old = {one.path for one, _ in move.votes} & {one.path for one, _ in other.votes}
    new = {one.path for _, one in move.votes} & {one.path for _, one in other.votes}
    is_broad = 2 * len(other.votes) >= len(move.votes)
    return bool(old and (is_broad or len(other.old) <= len(move.old))) or bool(
        new and (is_broad or len(other.new) <= len(move.new))
    )


def uncontested(move: Move, old: Sequence[Family], new: Sequence[Family]) -> int:
    """How much of `Move.inner` is left without families that others could be, or could become.

    A weight that kept its module and changed its last name keeps as much as one that kept its last
    name and changed the module.
    """
    alone = []
    for one, other in move.votes:
        kept = _kept(one.path, other.path)
        away = (g for g in new if g.path != other.path and _kept(one.path, g.path) >= kept)
        here = (f for f in old if f.path != one.path and _kept(f.path, other.path) >= kept)
        if not any(_agree(one, g) for g in away) and not any(_agree(f, other) for f in here):
            alone.append((one, other))
    return _inner(move.old, alone)


def _kept(one: _Path, other: _Path) -> int:
    """Segments that both have at the beginning, and at the end."""
    most = min(len(one), len(other))
    before = 0
    while before < most and one[before] == other[before]:
        before += 1
    after = 0
    while after < most - before and one[-1 - after] == other[-1 - after]:
        after += 1
    return before + after


def _inner(head: _Path, votes: Sequence[tuple[Family, Family]]) -> int:
    """Modules below the head that have a name of their own; of plain lists, kinds of layers."""
    found: set[object] = set()
    for family, _ in votes:
        module = family.path[len(head) : -1]
        named = {module[: n + 1] for n, segment in enumerate(module) if segment != "#"}
        found |= named or ({(module, s) for s in family.specs.values()} if module else set())
    return len(found)
