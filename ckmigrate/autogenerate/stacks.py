"""Entries with an index that became one with a dimension more, or the way back.

`moe.experts.{0..11}.fc1.weight` [16,32] and `moe.experts.fc1.weight` [12,16,32]: the index says
where each goes. It is certain where the name is kept but for the index, and no two of the
dimensions could be taken for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import Family, families
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.rows import Row
from ckmigrate.spec import TensorSpec

__all__ = ["propose_stacks", "propose_unstacks"]


_LONGEST = 90
_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pile:
    """Entries apart and together: which of the numbers in the path is the index.

    exact  the dimensions are those of a plain stack; else they also change order
    """

    apart: Family
    together: Family
    place: int
    exact: bool

    @property
    def rows(self) -> list[tuple[tuple[str, ...], str]]:
        """The names apart, by index, with the one name together."""
        groups: dict[tuple[str, ...], dict[int, str]] = {}
        for index, name in self.apart.members.items():
            rest = index[: self.place] + index[self.place + 1 :]
            groups.setdefault(rest, {})[int(index[self.place])] = name
        return [
            (tuple(group[n] for n in sorted(group)), self.together.members[rest])
            for rest, group in groups.items()
        ]


def propose_stacks(board: Board) -> None:
    """Entries apart vanished; one of them all appeared."""
    for pile in _piles(families(board.vanished), families(board.appeared)):
        rows = [Row(apart, (together,)) for apart, together in pile.rows]
        _propose(board, pile, rows, "stack")


def propose_unstacks(board: Board) -> None:
    """One entry vanished; one for each index appeared."""
    for pile in _piles(families(board.appeared), families(board.vanished)):
        rows = [Row((together,), apart) for apart, together in pile.rows]
        _propose(board, pile, rows, "unstack")


def _propose(board: Board, pile: _Pile, rows: Sequence[Row], kind: str) -> None:
    sizes = next(iter(pile.together.specs.values())).shape
    is_kept = len(pile.together.path) == len(pile.apart.path) - 1
    distinct = len(set(sizes)) == len(sizes)
    certainty: Certainty = "certain" if pile.exact and is_kept and distinct else "guess"
    if kind == "unstack" and not pile.exact:
        return  # it would have to be transposed before
    why = f"{sizes[0]} of equal shape, all names kept but the index"
    why += "" if is_kept else " and what stands beside it"
    for index in ("{e}", "{e:int}"):  # where something else stands beside the numbers
        apart, together = _patterns(pile, index)
        ends = (apart, together) if kind == "stack" else (together, apart)
        call = f"ck.{kind}({quoted(ends[0])}, {quoted(ends[1])})"
        takes = tuple(name for row in rows for name in row.sources)
        gives = tuple(name for row in rows for name in row.targets)
        if board.add(Proposal(kind, call, takes, gives, certainty, why)):
            return


def _patterns(pile: _Pile, index: str) -> tuple[str, str]:
    """Both paths with a capture for every number; the index is one that only one side has."""
    letters = iter("ijklmn")
    numbers = [n for n, part in enumerate(pile.apart.path) if part == "#"]
    names = {n: index if k == pile.place else f"{{{next(letters)}}}" for k, n in enumerate(numbers)}
    apart = [names.get(n, part) for n, part in enumerate(pile.apart.path)]
    kept = iter(name for name in names.values() if name != index)
    together = [next(kept) if part == "#" else part for part in pile.together.path]
    return ".".join(apart), ".".join(together)


def _piles(apart: Sequence[Family], together: Sequence[Family]) -> Iterator[_Pile]:
    """Families whose paths are the same but for a number, and perhaps for the words around it."""
    taken: set[_Path] = set()
    for family in apart:
        numbers = [n for n, part in enumerate(family.path) if part == "#"]
        near = [o for o in together if o.leaf == family.leaf and o.path not in taken]
        for other in sorted(near, key=lambda other: -len(other.path)):
            places = [k for k, at in enumerate(numbers) if _is_without(family.path, other.path, at)]
            piles = (_pile(family, other, place) for place in places)
            pile = next((pile for pile in piles if pile is not None), None)
            if pile is not None:
                taken.add(other.path)
                yield pile
                break


def _is_without(path: _Path, other: _Path, at: int) -> bool:
    """Whether `other` is `path` without the number at `at`, and without words beside it."""
    cut = len(path) - len(other)
    return any(
        start <= at < start + cut
        and path[:start] + path[start + cut :] == other
        and path[start : start + cut].count("#") == 1
        for start in range(max(0, at - cut + 1), at + 1)
    )


def _pile(apart: Family, together: Family, place: int) -> _Pile | None:
    groups: dict[tuple[str, ...], set[str]] = {}
    specs: dict[tuple[str, ...], set[TensorSpec]] = {}
    for index, spec in apart.specs.items():
        rest = index[:place] + index[place + 1 :]
        groups.setdefault(rest, set()).add(index[place])
        specs.setdefault(rest, set()).add(spec)
    if groups.keys() != together.specs.keys():
        return None
    fits = [_fit(groups[rest], specs[rest], together.specs[rest]) for rest in groups]
    return None if None in fits else _Pile(apart, together, place, exact=all(fits))


def _fit(indices: set[str], specs: set[TensorSpec], together: TensorSpec) -> bool | None:
    """True for a plain stack, False where the other dimensions changed order, None for no stack."""
    count = len(indices)
    if indices != set(map(str, range(count))) or len(specs) != 1 or not together.ndim:
        return None
    (spec,) = specs
    if spec.dtype is not together.dtype or together.shape[0] != count:
        return None
    if together.shape[1:] == spec.shape:
        return True
    return False if sorted(together.shape[1:]) == sorted(spec.shape) else None


def propose_merges(board: Board) -> None:
    """Copies in every block of what stands once now: merged where they are equal.

    Whether they are is checked on the values before anything is written.
    """
    for family in families(board.vanished):
        at = [n for n, part in enumerate(family.path) if part == "#"]
        if len(at) != 1 or len(family.members) < 2 or len(set(family.specs.values())) > 1:
            continue
        for other in families(board.appeared):
            is_same = other.leaf == family.leaf and _is_without(family.path, other.path, at[0])
            if is_same and set(other.specs.values()) == set(family.specs.values()):
                _merge(board, family, next(iter(other.members.values())))


def _merge(board: Board, family: Family, target: str) -> None:
    sources = tuple(family.members.values())
    call = f"ck.merge_equal([{', '.join(map(quoted, sources))}], {quoted(target)})"
    if len(call) > _LONGEST:
        pattern = ".".join("{i}" if part == "#" else part for part in family.path)
        call = (
            f"copies = [match.name for match in ck.match({quoted(pattern)})]\n"
            f"ck.merge_equal(copies, {quoted(target)})"
        )
    why = f"{len(sources)} of equal shape become one; refused where their values differ"
    board.add(Proposal("merge_equal", call, sources, (target,), "guess", why))
