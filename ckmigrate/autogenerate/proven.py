"""Entries whose content was found under another name: renames that need no evidence of names.

Content tells what names cannot, such as a layer that was put in before all others, or two that
changed places. Names that are given and taken in one chain change in one call.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.fresh import propose_gone
from ckmigrate.autogenerate.patterns import heads_of

__all__ = ["propose_proven"]

_WHY = "equal content"


def propose_proven(board: Board, equal: Mapping[str, str]) -> None:
    """`equal` maps new names to old ones."""
    now, new = board.schema, board.new.schema
    pairs = {
        old: name
        for name, old in equal.items()
        if old != name and old in now and name in new and now[old] == new[name]
    }
    held = {name for name in pairs.values() if name in now and name not in pairs}
    propose_gone(board, held, "guess", "its name is that of another entry now")
    for group in _together({old: pairs[old] for old in now if old in pairs}):
        board.rename(group, "certain", _WHY)


def _together(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    """Pairs that must be one call: chains, and chains through the same modules with them."""
    chain_of: dict[str, int] = {}
    chains: list[list[str]] = []
    for name in pairs:
        chain, current = [], name
        while current in pairs and current not in chain_of and current not in chain:
            chain.append(current)
            current = pairs[current]
        if current in chain_of:
            chains[chain_of[current]] += chain
            chain_of |= dict.fromkeys(chain, chain_of[current])
        elif chain:
            chain_of |= dict.fromkeys(chain, len(chains))
            chains.append(chain)
    groups: dict[object, dict[str, str]] = {}
    for chain in chains:
        part = {old: pairs[old] for old in chain}
        key = frozenset(heads_of(*pair) for pair in part.items()) if len(part) > 1 else None
        groups.setdefault(key, {}).update(part)
    return list(groups.values())
