"""Modules that got another name and another size: `fc` [10,8] and `head` [12,8].

The last resort before dropping one and making the other anew: the same entries but for one
dimension, where nothing else on either side could be meant.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import families
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.spec import TensorSpec

__all__ = ["propose_resized"]

_Leaves = dict[str, TensorSpec]


def propose_resized(board: Board, fresh: Fresh) -> None:
    """A rename for every pair of modules that only each other can be; they are resized after it."""
    old, new = _modules(board.vanished), _modules(board.appeared)
    fitting = [(one, other) for one in old for other in new if _fits(old[one], new[other])]
    for one, other in fitting:
        rivals = sum(pair[0] == one or pair[1] == other for pair in fitting)
        if rivals == 1:
            pairs = {f"{one}.{leaf}": f"{other}.{leaf}" for leaf in old[one]}
            anew = _anew(one, other, old[one], new[other], fresh)
            board.rename(pairs, "guess", "alike but for one dimension", (anew,))


def _modules(specs: Mapping[str, TensorSpec]) -> dict[str, _Leaves]:
    found: dict[str, _Leaves] = {}
    for name, spec in specs.items():
        module, dot, leaf = name.rpartition(".")
        if dot:
            found.setdefault(module, {})[leaf] = spec
    return found


def _fits(old: _Leaves, new: _Leaves) -> bool:
    """The same leaves, a matrix among them, and each another size in one dimension at most."""
    return (
        old.keys() == new.keys()
        and any(spec.ndim > 1 for spec in old.values())
        and all(_differ(old[leaf], new[leaf]) <= 1 for leaf in old)
    )


def _differ(one: TensorSpec, other: TensorSpec) -> int:
    if one.dtype is not other.dtype or one.ndim != other.ndim:
        return 2
    return sum(a != b for a, b in zip(one.shape, other.shape, strict=True))


def _anew(one: str, other: str, old: _Leaves, new: _Leaves, fresh: Fresh) -> Proposal:
    specs = {f"{other}.{leaf}": spec for leaf, spec in new.items()}
    lines = [f"ck.drop({quoted(f'{one}.**')}, reason={quoted('not in the model any more')})"]
    for family in families(specs):
        names = list(family.members.values())
        lines += fresh.calls(names, family.specs[next(iter(family.specs))])
    sources = tuple(f"{one}.{leaf}" for leaf in old)
    why = "dropped, and made anew"
    return Proposal("init", "\n".join(lines), sources, tuple(specs), "guess", why)
