"""One entry that became several along a dimension, or several that became one.

The parts stand beside the whole, or below it: `attn.qkv.weight` and `attn.{q,k,v}.weight`,
`attn.in_proj_weight` and `attn.{q,k,v}_proj.weight`, `mlp.w13.weight` and `mlp.{w1,w3}.weight`.
Sizes that add up are necessary, not enough: a fused projection that interleaves its heads has the
shape of one that does not. So this is a guess where the names spell the parts and their order, and
a question elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations, takewhile

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import Family, families
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty
from ckmigrate.autogenerate.rows import Reading, Row, alternatives_text, propose_rows
from ckmigrate.spec import TensorSpec

__all__ = ["propose_concats", "propose_splits"]

_MOST_PARTS = 6
_MOST_BESIDE = 10
_MOST_ORDERS = 5
_KNOWN_ORDERS = (("q", "k", "v"), ("query", "key", "value"), ("k", "v"), ("key", "value"))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a parameter stands: the module around its own, the word for it, and its kind."""

    around: tuple[str, ...]
    word: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Cut:
    """A whole with its parts in order, along dim."""

    whole: Family
    parts: tuple[Family, ...]
    words: tuple[str, tuple[str, ...]]
    dim: int
    is_spelled: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(next(iter(part.specs.values())).shape[self.dim] for part in self.parts)

    @property
    def length(self) -> int:
        return len(self.whole.members)


def propose_splits(board: Board, *, only_spelled: bool = False) -> None:
    """Wholes that vanished, parts that appeared."""
    sides = families(board.vanished), families(board.appeared)
    _propose(board, *sides, _split_rows, _split, only_spelled=only_spelled)


def propose_concats(board: Board, *, only_spelled: bool = False) -> None:
    """Parts that vanished, a whole that appeared."""
    sides = families(board.appeared), families(board.vanished)
    _propose(board, *sides, _concat_rows, _concat, only_spelled=only_spelled)


_Rows = Callable[[Sequence[_Cut]], list[Row]]
_Read = Callable[[_Cut, tuple[int, ...]], Reading]


def _propose(
    board: Board,
    wholes: Sequence[Family],
    parts: Sequence[Family],
    rows: _Rows,
    read: _Read,
    *,
    only_spelled: bool,
) -> None:
    """Cuts that agree on words, dimension and sizes are one call, such as weight and bias."""
    used: set[tuple[str, ...]] = set()
    groups: dict[tuple[object, ...], list[_Cut]] = {}
    for whole in wholes:
        free = [part for part in parts if part.path not in used]
        cut = next(_cuts(whole, free), None)
        if cut is not None and (cut.is_spelled or not only_spelled):
            used |= {part.path for part in cut.parts}
            groups.setdefault((cut.words, cut.dim, cut.sizes, cut.is_spelled), []).append(cut)
    for cuts in groups.values():
        first, *others = [read(cuts[0], order) for order in _orders(cuts[0])]
        certainty: Certainty = "guess" if cuts[0].is_spelled else "ambiguous"
        propose_rows(board, rows(cuts), first, certainty, others)


def _cuts(whole: Family, free: Sequence[Family]) -> Iterator[_Cut]:
    """Every way to make `whole` of families near it; what the names spell first."""
    found = [cut for place in _places(whole) for cut in _cuts_at(whole, place, free)]
    yield from sorted(found, key=lambda cut: (not cut.is_spelled, -len(cut.parts)))


def _cuts_at(whole: Family, place: _Place, free: Sequence[Family]) -> Iterator[_Cut]:
    beside = [
        (part, other.word)
        for part in free
        for other in _places(part)
        if (other.around, other.kind) == (place.around, place.kind)
        and part.specs.keys() == whole.specs.keys()
    ]
    beside = list({part.path: (part, word) for part, word in beside}.values())[:_MOST_BESIDE]
    for count in range(min(len(beside), _MOST_PARTS), 1, -1):
        for some in combinations(beside, count):
            dim = _dim(whole, [part for part, _ in some])
            if dim is not None:
                yield _cut(whole, place.word, some, dim)


def _cut(whole: Family, word: str, some: Sequence[tuple[Family, str]], dim: int) -> _Cut:
    order = _spelled(word, [other for _, other in some])
    ordered = [some[n] for n in order] if order is not None else some
    parts = tuple(part for part, _ in ordered)
    return _Cut(whole, parts, (word, tuple(w for _, w in ordered)), dim, order is not None)


def _places(family: Family) -> list[_Place]:
    """Every reading of a path as (around, word, kind); a parameter's own name may hold both."""
    path = family.path
    found = []
    if len(path) > 1:
        found += [_Place(path[:-2], path[-2], path[-1]), _Place(path[:-1], path[-2], path[-1])]
    for kind in ("weight", "bias"):
        if path[-1].endswith(f"_{kind}"):
            found.append(_Place(path[:-1], path[-1].removesuffix(f"_{kind}"), kind))
    return found


def _dim(whole: Family, parts: Sequence[Family]) -> int | None:
    """The one dimension along which the parts add up to the whole, at every index."""
    dims = [
        {_dim_of(spec, [part.specs[index] for part in parts])}
        for index, spec in whole.specs.items()
    ]
    common = set.intersection(*dims) if dims else {None}
    return next(iter(common), None)


def _dim_of(whole: TensorSpec, parts: Sequence[TensorSpec]) -> int | None:
    for dim in range(whole.ndim):
        fits = all(
            part.dtype is whole.dtype
            and part.ndim == whole.ndim
            and part.shape[:dim] == whole.shape[:dim]
            and part.shape[dim + 1 :] == whole.shape[dim + 1 :]
            for part in parts
        )
        if fits and sum(part.shape[dim] for part in parts) == whole.shape[dim]:
            return dim
    return None


def _spelled(whole: str, words: Sequence[str]) -> tuple[int, ...] | None:
    """The order in which the whole's word spells the parts, or that everybody uses."""
    tokens = _tokens(words)
    for order in _KNOWN_ORDERS:
        if sorted(tokens) == sorted(order):
            return tuple(tokens.index(token) for token in order)
    text = whole.lower()
    places = [text.find(token) for token in tokens]
    if all(tokens) and min(places) >= 0 and len(set(places)) == len(places):
        return tuple(sorted(range(len(tokens)), key=places.__getitem__))
    return None


def _tokens(words: Sequence[str]) -> list[str]:
    """What tells the words apart: `q`, `k`, `v` of `q_proj`, `k_proj`, `v_proj`."""
    lower = [word.lower() for word in words]
    before = _shared(lower)
    after = _shared([word[before:][::-1] for word in lower])
    cut = [word[before : len(word) - after].strip("_") for word in lower]
    return cut if all(cut) else lower


def _shared(words: Sequence[str]) -> int:
    """Letters that all words begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))))


def _orders(cut: _Cut) -> list[tuple[int, ...]]:
    """The order of the parts, and others where nothing says it."""
    every = list(islice(permutations(range(len(cut.parts))), _MOST_ORDERS + 1))
    return every[:1] if cut.is_spelled else every


def _rows(cuts: Sequence[_Cut]) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (name, tuple(part.members[index] for part in cut.parts))
        for cut in cuts
        for index, name in cut.whole.members.items()
    ]


def _split_rows(cuts: Sequence[_Cut]) -> list[Row]:
    return [Row((whole,), parts) for whole, parts in _rows(cuts)]


def _concat_rows(cuts: Sequence[_Cut]) -> list[Row]:
    return [Row(parts, (whole,)) for whole, parts in _rows(cuts)]


def _split(cut: _Cut, order: tuple[int, ...]) -> Reading:
    sizes = tuple(cut.sizes[n] for n in order)
    given = f", sizes={sizes}" if len(set(sizes)) > 1 else ""

    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        parts = alternatives_text([targets[n] for n in order])
        return f"ck.split({quoted(sources[0])}, {parts}, dim={cut.dim}{given})"

    return Reading("split", write, _why(cut, order))


def _concat(cut: _Cut, order: tuple[int, ...]) -> Reading:
    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        parts = alternatives_text([sources[n] for n in order])
        return f"ck.concat({parts}, {quoted(targets[0])}, dim={cut.dim})"

    return Reading("concat", write, _why(cut, order))


def _why(cut: _Cut, order: tuple[int, ...]) -> str:
    parts = " + ".join(str(cut.sizes[n]) for n in order)
    words = ", ".join(cut.words[1][n] for n in order)
    spelled = "the names spell the parts" if cut.is_spelled else "only the sizes fit"
    return f"{cut.words[0]} = {words}: {parts} along dim {cut.dim}, {spelled}"
