"""Proof by content: two real checkpoints, before and after, whose bytes say what became what.

An entry whose bytes stand under another name in the new file, and nowhere else in either, was
renamed. A proposal whose calls make exactly the new file's bytes of the old one's is right,
whatever it does: a transpose and the parts of a split are proved like a rename. Constant tensors
prove nothing: a fresh norm layer equals every other. Tensors are read in pieces, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ckmigrate.autogenerate.decide import can_run
from ckmigrate.autogenerate.proposal import Draft, Proposal
from ckmigrate.autogenerate.replay import run_call, start_of
from ckmigrate.autogenerate.settle import Side
from ckmigrate.compile import State
from ckmigrate.errors import CkmigrateError
from ckmigrate.execute.fill import read_pieces
from ckmigrate.execute.source import SourceFile, open_source
from ckmigrate.expr import Expr, Random, Result, Source, sources, walk
from ckmigrate.opened import Opened
from ckmigrate.spec import DType, TensorSpec

__all__ = ["Contents", "confirmed", "equal_entries", "open_contents"]


@dataclass(frozen=True, slots=True)
class Content:
    """What a tensor holds: the digest of its bytes in row-major order."""

    dtype: DType
    numel: int
    digest: bytes
    is_constant: bool


@dataclass(slots=True)
class Contents:
    """The two files, open, and what is known of their contents so far."""

    old: SourceFile
    new: SourceFile
    old_specs: Mapping[str, TensorSpec]
    new_specs: Mapping[str, TensorSpec]
    old_first: Mapping[str, str]
    new_first: Mapping[str, str]
    _new: dict[str, Content] = field(default_factory=dict)
    _made: dict[Expr, Content] = field(default_factory=dict)

    def of_new(self, name: str) -> Content:
        """What an entry of the new file holds."""
        if name not in self._new:
            self._new[name] = _content(Source(name, self.new_specs[name]), self.new)
        return self._new[name]

    def made(self, expr: Expr) -> Content:
        """What an expression over the old file's entries holds."""
        if expr not in self._made:
            self._made[expr] = _content(expr, self.old)
        return self._made[expr]


@contextmanager
def open_contents(old: Opened, new: Opened) -> Iterator[Contents]:
    """The contents of two checkpoints, whose files are open inside the block."""
    with (
        open_source(old.stored, old.layout.entries) as one,
        open_source(new.stored, new.layout.entries) as other,
    ):
        firsts = (_first_names(old), _first_names(new))
        yield Contents(one, other, old.schema, new.schema, *firsts)


def equal_entries(contents: Contents) -> dict[str, str]:
    """New name → old name, where the same bytes in the same shape stand once in each file.

    Tied names count once. Entries that keep their name, and constant ones, are no renames.
    """
    before = _by_content(
        (contents.old_first.get(name, name), spec, contents.made(Source(name, spec)))
        for name, spec in contents.old_specs.items()
    )
    after = _by_content(
        (contents.new_first.get(name, name), spec, contents.of_new(name))
        for name, spec in contents.new_specs.items()
    )
    pairs = {
        after[key][0]: before[key][0]
        for key in before.keys() & after.keys()
        if len(before[key]) == len(after[key]) == 1
    }
    return {new: pairs[new] for new in contents.new_specs if new in pairs and pairs[new] != new}


def confirmed(draft: Draft, side: Side, contents: Contents) -> Draft:
    """The draft with what the contents prove: certain, where a proposal or one of its alternatives
    makes exactly the new file's bytes."""
    proposals = list(draft.proposals)
    for number, proposal in enumerate(proposals):
        if proposal.certainty != "certain":
            proposals[number] = _confirmed(number, proposals, side, contents)
    return Draft(tuple(proposals))


def _confirmed(number: int, proposals: list[Proposal], side: Side, contents: Contents) -> Proposal:
    proposal = proposals[number]
    for way in (proposal, *proposal.alternatives):
        tried = [*proposals[:number], way, *proposals[number + 1 :]]
        if can_run(way) and _is_proved(number, tried, side, contents):
            why = "proved: the contents are equal"
            return replace(way, certainty="certain", why=why, alternatives=())
    return proposal


def _is_proved(number: int, tried: list[Proposal], side: Side, contents: Contents) -> bool:
    """Whether all that the proposal's sources become is what the new file holds."""
    state = start_of(side.old)
    roots: set[str] = set()
    for rank, proposal in enumerate(tried):
        if rank == number:
            roots = {r for name in proposal.sources for r in _roots(state, name)}
        try:
            state = run_call(proposal.call, state) if can_run(proposal) else state
        except CkmigrateError:
            if rank == number:
                return False
    touched = {
        name: expr for name, expr in state.entries.items() if roots.intersection(sources(expr))
    }
    return bool(touched) and _are_proved(touched, contents)


def _are_proved(touched: Mapping[str, Expr], contents: Contents) -> bool:
    """Constant entries must fit as well, and be led by a neighbour that is proof."""
    proved: set[tuple[str, str]] = set()
    constant: list[tuple[str, Expr]] = []
    for name, expr in touched.items():
        if not _fits(name, expr, contents):
            return False
        if contents.made(expr).is_constant:
            constant.append((name, expr))
        elif _is_alone(name, contents):
            proved |= _modules(name, expr)
        else:
            return False
    return all(_modules(n, e) & proved for n, e in constant)


def _modules(name: str, expr: Expr) -> set[tuple[str, str]]:
    """The modules that an entry comes from, each with the one that it is in."""
    return {(source.rpartition(".")[0], name.rpartition(".")[0]) for source in sources(expr)}


def _roots(state: State, name: str) -> tuple[str, ...]:
    return sources(state.entries[name]) if name in state.entries else ()


def _fits(name: str, expr: Expr, contents: Contents) -> bool:
    """Whether an entry of the new file is, bit for bit, what an expression makes of the old."""
    spec = contents.new_specs.get(name)
    if spec != expr.spec or any(isinstance(node, (Random, Result)) for node in walk(expr)):
        return False
    return contents.made(expr) == contents.of_new(name)


def _is_alone(name: str, contents: Contents) -> bool:
    """Whether no other entry of the new file holds the same; tied names are one entry."""
    first, content = contents.new_first.get(name, name), contents.of_new(name)
    return not any(
        contents.of_new(other) == content
        for other, spec in contents.new_specs.items()
        if contents.new_first.get(other, other) != first
        and (spec.dtype, spec.numel) == (content.dtype, content.numel)
    )


def _by_content(
    entries: Iterable[tuple[str, TensorSpec, Content]],
) -> dict[tuple[TensorSpec, bytes], list[str]]:
    found: dict[tuple[TensorSpec, bytes], list[str]] = {}
    for name, spec, content in entries:
        names = found.setdefault((spec, content.digest), [])
        if name not in names and not content.is_constant:
            names.append(name)
    return {key: names for key, names in found.items() if names}


def _first_names(opened: Opened) -> dict[str, str]:
    return {name: group[0] for group in opened.layout.ties for name in group}


def _content(expr: Expr, source: SourceFile) -> Content:
    found = hashlib.blake2b(digest_size=32)
    width = max(1, expr.spec.dtype.bits // 8)
    first, is_constant = b"", True
    for piece in read_pieces(expr, source):
        data = bytes(piece)
        found.update(data)
        first = first or data[:width]
        is_constant = is_constant and data == first * (len(data) // width)
    return Content(expr.spec.dtype, expr.spec.numel, found.digest(), is_constant)
