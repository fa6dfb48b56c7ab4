"""Modules whose place was taken by another: `fc2` became `fc3`, and a new `fc2` stands before it.

A module that changed its shape, while one of its old shape appeared near it, may have moved there.
It may also have been resized, and the other be new; so this is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.spec import TensorSpec

__all__ = ["propose_displaced"]

_Leaves = dict[str, TensorSpec]


def propose_displaced(board: Board) -> None:
    """Chains and swaps of displaced modules, each as one simultaneous rename."""
    old = {m: e for m, e in _modules(board.schema).items() if _is_touched(m, e, board.changed)}
    new = _modules(board.new.schema)
    open_places = {
        m: e
        for m, e in new.items()
        if m in old or all(_name(m, leaf) in board.appeared for leaf in e)
    }
    moved: dict[str, str] = {}
    for module, leaves in old.items():
        fitting = [m for m, e in open_places.items() if e == leaves and _near(m, module)]
        free = [m for m in fitting if m not in moved.values() and m != module]
        if free:
            moved[module] = free[0]
    moved = _movable(moved, old.keys())
    pairs = {_name(m, leaf): _name(to, leaf) for m, to in moved.items() for leaf in old[m]}
    why = "these shapes stand at another place now; or they changed where they are"
    board.rename(pairs, "ambiguous", why, _in_place(board, pairs))


def _in_place(board: Board, pairs: Mapping[str, str]) -> tuple[Proposal, ...]:
    """The other reading: each stayed where it is, and changed its shape there."""
    changed = {name: board.changed[name] for name in pairs if name in board.changed}
    if not all(has.ndim == wants.ndim for has, wants in changed.values()) or not changed:
        return ()
    lines = [f"ck.resize({quoted(n)}, {wants.shape})" for n, (_, wants) in changed.items()]
    why = "they changed their shape where they are"
    names = tuple(changed)
    return (Proposal("resize", "\n".join(lines), names, names, "guess", why),)


def _modules(specs: Mapping[str, TensorSpec]) -> dict[str, _Leaves]:
    found: dict[str, _Leaves] = {}
    for name, spec in specs.items():
        module, _, leaf = name.rpartition(".")
        found.setdefault(module, {})[leaf] = spec
    return found


def _is_touched(module: str, leaves: _Leaves, changed: Mapping[str, object]) -> bool:
    return any(_name(module, leaf) in changed for leaf in leaves)


def _movable(moved: Mapping[str, str], touched: Collection[str]) -> dict[str, str]:
    """Without those whose new place is held by a module that stays."""
    left = dict(moved)
    while True:
        stay = {m for m in touched if m not in left}
        blocked = [m for m, to in left.items() if to in stay]
        if not blocked:
            return left
        for module in blocked:
            del left[module]


def _near(one: str, other: str) -> bool:
    """In the same module."""
    return one.rpartition(".")[0] == other.rpartition(".")[0]


def _name(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf
