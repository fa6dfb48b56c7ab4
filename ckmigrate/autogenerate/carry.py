"""What goes along when a head is exchanged for another: more than the entries that speak for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.families import is_number

__all__ = ["carried", "moved_name"]

_Path = tuple[str, ...]


def moved_name(name: str, old: _Path, new: _Path) -> str | None:
    """The name with its head exchanged, "#" for any number; None where it has another head."""
    parts = name.split(".")
    if len(parts) <= len(old):
        return None
    numbers: list[str] = []
    for part, wanted in zip(parts, old, strict=False):
        if wanted == "#" and is_number(part):
            numbers.append(part)
        elif part != wanted:
            return None
    if len(numbers) != new.count("#"):
        return None
    given: Iterator[str] = iter(numbers)
    return ".".join([*(next(given) if p == "#" else p for p in new), *parts[len(old) :]])


def carried(board: Board, old: _Path, new: _Path, pairs: Mapping[str, str]) -> dict[str, str]:
    """`pairs`, every other entry below the head whose new name is wanted, and what stood with them.

    A whole subtree moves together, also with entries that have yet to be explained: so the pattern
    is short, and they are found where the model has them.
    """
    moved = {n: m for n in board.state.entries if (m := moved_name(n, old, new)) is not None}
    fitting = {n for n, m in moved.items() if n in board.vanished and m in board.appeared}
    children: dict[_Path, list[str]] = {}
    for name in moved:
        children.setdefault(tuple(name.split(".")[: len(old) + 1]), []).append(name)
    whole = [
        name
        for names in children.values()
        if not fitting.isdisjoint(names) and _can_all_go(board, names, moved)
        for name in names
    ]
    along = set(moved if _can_all_go(board, list(moved), moved) else whole) | fitting
    return dict(pairs) | {n: moved[n] for n in moved if n in along}


def _can_all_go(board: Board, names: list[str], moved: Mapping[str, str]) -> bool:
    entries = board.state.entries
    return all(n in board.vanished and moved[n] not in entries for n in names)
