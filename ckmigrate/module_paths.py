"""Where modules went, told from where their tensors went.

torch keeps a version per module beside a state dict (`_metadata`), which decides how old entries
are read: it must move with the tensors, though no script ever names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["follow_modules"]

Moves = Mapping[str, Sequence[str]]


def follow_modules(modules: Iterable[str], moves: Moves, names: Iterable[str]) -> dict[str, str]:
    """New module path by old one; a module that has no successor is absent.

    modules  old module paths, "" for the root
    moves    old tensor name → the new names that its values went to; () for a dropped one
    names    all new tensor names

    The root stays. A module with tensors of its own goes where these went, when they all went to
    one module; one that only contains modules goes where everything below it went unchanged.
    Otherwise it stays while its path still leads to a tensor, and is gone when it does not.
    A module without any tensor below follows its parent. Of several modules that meet in one
    place, the one that was there wins, then the first.
    """
    below = _by_ancestor(moves)
    alive = {ancestor for name in names for ancestor in _ancestors(name)}
    targets = {module: _target(module, below, moves, alive) for module in modules}
    taken: dict[str, str] = {}
    for module, target in targets.items():
        if target is not None and (target not in taken or target == module):
            taken[target] = module
    return {module: target for target, module in taken.items()}


def _target(
    module: str, below: Mapping[str, Sequence[str]], moves: Moves, alive: set[str]
) -> str | None:
    anchor = module
    while anchor and anchor not in below:
        anchor = anchor.rpartition(".")[0]
    moved = _followed(anchor, below[anchor], moves, alive) if anchor else ""
    tail = module[len(anchor) :]
    return None if moved is None else f"{moved}{tail}" if moved else tail.removeprefix(".")


def _followed(module: str, inner: Sequence[str], moves: Moves, alive: set[str]) -> str | None:
    own = [name for name in inner if "." not in name[len(module) + 1 :]]
    places: set[str | None]
    if own:
        places = {new.rpartition(".")[0] for name in own for new in moves[name]}
    else:
        places = {_head(new, name[len(module) :]) for name in inner for new in moves[name]}
    if len(places) == 1 and None not in places:
        return next(iter(places))
    stays = module in alive and (not own or module in places)
    return module if stays else None


def _head(name: str, tail: str) -> str | None:
    """`name` without `tail` (which starts with a dot); None when it ends otherwise."""
    if name == tail[1:]:
        return ""
    return name.removesuffix(tail) if name.endswith(tail) else None


def _by_ancestor(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        for ancestor in _ancestors(name):
            found.setdefault(ancestor, []).append(name)
    return found


def _ancestors(name: str) -> Iterable[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
