"""What is in a checkpoint beside tensors, by path: `hyper_parameters.n_head`.

A path walks the keys of dicts and of objects that are dicts (OrderedDict), the attributes of
objects (Namespace, a carried config class), and the indices of lists. Keys may have dots in them:
of `a.b` and `a` the longer key is tried first. Digits also mean a key that is a number.

Changes give a new tree; what is not on the path is shared with the old one, which stays as it is.
Subtrees that hold tensors are refused: operations on tensors change those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ckmigrate.errors import MigrationError
from ckmigrate.formats.plain import plain
from ckmigrate.formats.tree import Global, Object, Storage, Tensor
from ckmigrate.formats.tree_paths import Path, entries_of, holders, with_entries

__all__ = ["drop", "get", "has", "plain", "rename", "set_value"]

_DEEPEST: Final = 100
_NEAR: Final = 3
_DEEPER: Final = 3
_MOST_PLACES: Final = 1000


def get(tree: object, path: str) -> object:
    """The inert value at `path`; MigrationError CKM571, naming near keys, when there is none."""
    return _child(tree, _existing(tree, path))


def has(tree: object, path: str) -> bool:
    """Whether there is a value at `path`."""
    return _find(tree, path.split(".")) is not None


def set_value(tree: object, path: str, value: object) -> object:
    """The tree with `value` at `path`: an entry that exists, or a new one in what exists.

    value  None, a bool, number or text; lists, tuples and dicts of them; an inert value of a tree

    Raises MigrationError: CKM571 nothing there to hold it, CKM572 there are tensors at `path`,
    CKM574 the value is not plain.
    """
    found = _find(tree, path.split("."))
    if found is None:
        found = _vacant(tree, path)
    else:
        _refuse_tensors(_child(tree, found), path)
    return _put(tree, found, _plain_copy(value, path))


def drop(tree: object, path: str) -> object:
    """The tree without the entry at `path`; MigrationError CKM571, CKM572 as for `set_value`."""
    found = _existing(tree, path)
    _refuse_tensors(_child(tree, found), path)
    return _dropped(tree, found)


def rename(tree: object, old: str, new: str) -> object:
    """The tree with the entry at `old` moved to `new`; in the same container it keeps its place.

    Raises MigrationError: CKM571 nothing at `old` or nothing to hold `new`, CKM572 there are
    tensors, CKM575 there is something at `new`, or `new` is inside `old`.
    """
    source = _existing(tree, old)
    value = _child(tree, source)
    _refuse_tensors(value, old)
    if has(tree, new):
        what = f"cannot rename {old!r} to {new!r}: there is an entry {new!r}"
        raise MigrationError("CKM575", what, fix=f"drop {new!r} first, or choose another name")
    target = _vacant(tree, new, beside=source)
    if target[: len(source)] == source:
        what = f"cannot rename {old!r} to {new!r}, which is inside of it"
        raise MigrationError("CKM575", what, fix="choose another name")
    if target[:-1] == source[:-1]:
        return _renamed(tree, source, target[-1])
    rest = _dropped(tree, source)
    return _put(rest, _vacant(rest, new), value)


# --- walking ----------------------------------------------------------------------------------


def _places(node: object) -> Mapping[object, object]:
    """What a path can reach from a node in one step."""
    entries = entries_of(node)
    if entries is not None:
        return entries
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if isinstance(node, Object):
        return {key: part for attributes in _states(node) for key, part in attributes.items()}
    return {}


def _states(node: Object) -> list[dict[object, object]]:
    """The attributes of an object: of its dict, then of its slots, as pickle saves them."""
    parts = node.state if isinstance(node.state, tuple) else (node.state,)
    return [part for part in parts if isinstance(part, dict)]


def _child(tree: object, path: Path) -> object:
    for key in path:
        tree = _places(tree)[key]
    return tree


def _find(node: object, parts: Sequence[str]) -> Path | None:
    if not parts:
        return ()
    places = _places(node)
    for count in range(len(parts), 0, -1):
        for key in _spellings(".".join(parts[:count])):
            rest = _find(places[key], parts[count:]) if key in places else None
            if rest is not None:
                return (key, *rest)
    return None


def _spellings(text: str) -> tuple[object, ...]:
    return (text, int(text)) if text.isdecimal() and len(text) < 20 else (text,)


def _existing(tree: object, path: str) -> Path:
    found = _find(tree, path.split("."))
    if found is None:
        raise _unknown(tree, path, f"the metadata have no entry {path!r}")
    return found


def _vacant(tree: object, path: str, beside: Path | None = None) -> Path:
    """Where a new entry goes. A key gets dots in it only among others like it, or in place of one:
    otherwise a mistyped container would become a key."""
    parts = path.split(".")
    dotted = beside[:-1] if beside is not None and "." in str(beside[-1]) else None
    for count in range(len(parts) - 1, -1, -1):
        holder = _find(tree, parts[:count])
        key = ".".join(parts[count:])
        if holder is None or not _takes_keys(_child(tree, holder)):
            continue
        others = _places(_child(tree, holder))
        alike = any(str(other).startswith(f"{parts[count]}.") for other in others)
        if "." not in key or alike or holder == dotted:
            return (*holder, key)
    raise _unknown(tree, path, f"there is nothing that could hold {path!r}")


def _takes_keys(node: object) -> bool:
    return entries_of(node) is not None or (isinstance(node, Object) and bool(_states(node)))


# --- changing ---------------------------------------------------------------------------------


def _put(tree: object, path: Path, value: object) -> object:
    if not path:
        return value
    places = _places(tree)
    inner = _put(places[path[0]], path[1:], value) if len(path) > 1 else value
    return _with_places(tree, {**places, path[0]: inner})


def _dropped(tree: object, path: Path) -> object:
    holder = _child(tree, path[:-1])
    rest = {key: part for key, part in _places(holder).items() if key != path[-1]}
    return _put(tree, path[:-1], _with_places(holder, rest))


def _renamed(tree: object, path: Path, key: object) -> object:
    holder = _child(tree, path[:-1])
    changed = {key if old == path[-1] else old: part for old, part in _places(holder).items()}
    return _put(tree, path[:-1], _with_places(holder, changed))


def _with_places(node: object, places: dict[object, object]) -> object:
    """A node of the same kind with other content; new attributes go where the first ones are."""
    if entries_of(node) is not None:
        return with_entries(node, places)
    if isinstance(node, list | tuple):
        return type(node)(places.values())
    assert isinstance(node, Object)
    if isinstance(node.state, dict):
        return replace(node, state=places)
    assert isinstance(node.state, tuple)
    slots = node.state[-1] if len(_states(node)) > 1 else {}
    kept = {key: part for key, part in places.items() if key in slots}
    others = {key: part for key, part in places.items() if key not in slots}
    only_slots = not isinstance(node.state[0], dict)
    return replace(node, state=(None, places) if only_slots else (others, kept or node.state[1]))


def _plain_copy(value: object, path: str, depth: int = 0) -> object:
    """A copy that a script cannot change later; MigrationError CKM574 for what is not plain."""
    if depth > _DEEPEST:
        raise _not_plain(value, path, "it is nested too deeply, or holds itself")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Object | Global):
        _refuse_tensors(value, path)
        return value
    if isinstance(value, list | tuple):
        return type(value)([_plain_copy(part, path, depth + 1) for part in value])
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        return {key: _plain_copy(part, path, depth + 1) for key, part in value.items()}
    raise _not_plain(value, path, "numbers, text, lists and dicts of them can be stored")


# --- errors -----------------------------------------------------------------------------------


def _refuse_tensors(node: object, path: str) -> None:
    if holders(node, lambda part: isinstance(part, Tensor | Storage)):
        what = f"{path!r} holds tensors"
        fix = "Change tensors with ck.rename, ck.drop and the other operations, not with ck.meta."
        raise MigrationError("CKM572", what, fix=fix)


def _not_plain(value: object, path: str, why: str) -> MigrationError:
    what = f"a value of type {type(value).__name__} cannot be stored at {path!r}"
    fix = "Give plain data: None, bool, int, float, str, lists and dicts."
    return MigrationError("CKM574", what, why=why, fix=fix)


def _unknown(tree: object, path: str, what: str) -> MigrationError:
    parts = path.split(".")
    begun = [(n, _find(tree, parts[:n])) for n in range(len(parts) - 1, -1, -1)]
    count, holder = next((n, found) for n, found in begun if found is not None)
    node, rest = _child(tree, holder), ".".join(parts[count:])
    names = [str(key) for key in _places(node) if isinstance(key, str | int)]
    if not names and isinstance(node, Object) and entries_of(node) is None:
        return _closed(what, ".".join(parts[:count]), node)
    import difflib

    near = list(_below(node, rest)) or difflib.get_close_matches(rest, names, _NEAR, 0.5)
    shown = ", ".join(repr(".".join([*parts[:count], name])) for name in near or names[:_NEAR])
    why = f"near it: {shown}" if shown else "there is nothing near it"
    fix = (
        "Correct the path; where only some files have it: ck.meta.rename(…, optional=True), or "
        "ck.meta.get(PATH, DEFAULT)."
    )
    return MigrationError("CKM571", what, why=why, fix=fix)


def _closed(what: str, path: str, node: Object) -> MigrationError:
    """An object that is made by a call has no attributes that the file names."""
    why = f"{path!r} is a {node.factory}, made by a call: what is inside cannot be reached by name"
    fix = "Replace it as a whole with ck.meta.set, and save a dict from now on, as vars(config)."
    return MigrationError("CKM571", what, why=why, fix=fix)


def _below(node: object, name: str) -> Iterator[str]:
    """Paths at which a name stands deeper than where it was looked for."""
    level = [("", node)]
    for _ in range(_DEEPER):
        inner = [(f"{path}{key}.", part) for path, at in level for key, part in _places(at).items()]
        yield from (path[:-1] for path, _ in inner if path.endswith(f".{name}."))
        level = inner[:_MOST_PLACES]
