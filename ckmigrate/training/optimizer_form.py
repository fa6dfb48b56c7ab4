"""Optimizer state as it stands in a checkpoint, in any of three forms.

    indexed  {"state": {0: {…}}, "param_groups": [{"params": [0, 1], "lr": …}]}: `state_dict()`
    named    the same with names for numbers: `get_optimizer_state_dict`
    flat     {"state.fc.weight.exp_avg": …, "param_groups.fc.weight.lr": …}: the same, flattened

Read, it is one thing: groups of keys with their settings, and the state of each key. Written, it
has the form that it had. Distributed checkpoints (DCP) have the numbers in `state` as texts, and
leave nothing of an empty `state`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckmigrate.errors import MigrationError
from ckmigrate.formats.pickle_limits import content
from ckmigrate.formats.tree import Tensor
from ckmigrate.formats.tree_paths import Path, entries_of, with_entries

__all__ = [
    "Form",
    "Group",
    "Key",
    "Optimizer",
    "counts_parameters",
    "read_optimizer",
    "written",
]

Form = Literal["indexed", "named", "flat"]
Key = int | str
Fields = Mapping[object, object]


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with common settings.

    keys      the parameters, as the file counts or calls them
    names     what it calls them beside (`param_names`), or None
    settings  everything else: learning rate, betas …
    """

    keys: tuple[Key, ...]
    names: tuple[str, ...] | None
    settings: Fields


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimizer of a checkpoint.

    state     by key, of those parameters that have any
    as_texts  whether the numbers in `state` are texts in the file
    """

    path: Path
    form: Form
    groups: tuple[Group, ...]
    state: Mapping[Key, Fields]
    node: object
    as_texts: bool = False

    @property
    def where(self) -> str:
        return ".".join(map(str, self.path)) or "optimizer"

    def field_path(self, key: Key, name: object) -> Path:
        """Where a field of a parameter's state stands, from the top of the tree."""
        if self.form == "flat":
            return (*self.path, f"state.{key}.{name}")
        return (*self.path, "state", key, name)


def counts_parameters(node: object) -> bool:
    """Whether an optimizer has its parameters by number, so that the order of the model matters."""
    groups = (entries_of(node) or {}).get("param_groups")
    listed = groups if isinstance(groups, list | tuple) else ()
    params = [(entries_of(group) or {}).get("params") for group in listed]
    keys = [key for part in params if isinstance(part, list | tuple) for key in part]
    return any(isinstance(key, int) for key in keys)


def read_optimizer(node: object, path: Path) -> Optimizer:
    """The optimizer that stands at a path; MigrationError CKM569 where it is none that we know."""
    entries = entries_of(node) or {}
    if "param_groups" in entries:
        return _nested(node, entries, path)
    return _flat(node, entries, path)


def written(optimizer: Optimizer, groups: Sequence[Group], state: Mapping[Key, Fields]) -> object:
    """The node with other groups and state, in the same form."""
    entries = dict(entries_of(optimizer.node) or {})
    if optimizer.form == "flat":
        return with_entries(optimizer.node, _flattened(groups, state))
    old = entries["param_groups"]
    assert isinstance(old, list | tuple)
    listed = [_group_node(old, number, group) for number, group in enumerate(groups)]
    entries["param_groups"] = tuple(listed) if isinstance(old, tuple) else listed
    kept: dict[object, object] = {
        str(key) if optimizer.as_texts else key: dict(fields) for key, fields in state.items()
    }
    entries["state"] = with_entries(entries.get("state", {}), kept | dict(_others(optimizer)))
    return with_entries(optimizer.node, entries)


def _nested(node: object, entries: Fields, path: Path) -> Optimizer:
    listed, states = entries["param_groups"], entries_of(entries.get("state", {}))
    if not isinstance(listed, list | tuple) or states is None:
        raise _unknown(path, "its state and its groups are no mapping and no list")
    groups = tuple(_group(part, path) for part in listed)
    keys = [key for group in groups for key in group.keys]
    if len(set(keys)) < len(keys):
        raise _unknown(path, "a parameter stands in it twice")
    as_texts = any(str(key) in states and key not in states for key in keys)
    at = {key: str(key) if as_texts else key for key in keys}
    state: dict[Key, Fields] = {}
    for key in keys:
        if at[key] in states:
            fields = entries_of(states[at[key]])
            if fields is None:
                raise _unknown(path, f"the state of parameter {key} is no mapping")
            state[key] = fields
    form: Form = "named" if any(isinstance(key, str) for key in keys) else "indexed"
    beside = [part for key, part in entries.items() if key not in ("state", "param_groups")]
    beside += [part for key, part in states.items() if key not in set(at.values())]
    if any(map(_holds_tensors, beside)):
        raise _unknown(path, "it holds tensors that belong to no parameter")
    return Optimizer(path, form, groups, state, node, as_texts)


def _group(part: object, path: Path) -> Group:
    entries = entries_of(part) or {}
    keys, names = entries.get("params"), entries.get("param_names")
    if not isinstance(keys, list | tuple) or not all(type(key) in (int, str) for key in keys):
        raise _unknown(path, "a group does not list its parameters")
    told = isinstance(names, list | tuple) and len(names) == len(keys)
    listed = tuple(map(str, names)) if told and isinstance(names, list | tuple) else None
    settings = {k: v for k, v in entries.items() if k not in ("params", "param_names")}
    return Group(tuple(keys), listed, settings)


def _flat(node: object, entries: Fields, path: Path) -> Optimizer:
    """Its groups are the parameters that have equal settings."""
    state: dict[Key, dict[object, object]] = {}
    settings: dict[Key, dict[object, object]] = {}
    for key, part in entries.items():
        head, _, rest = str(key).partition(".")
        name, dot, last = rest.rpartition(".")
        if head not in ("state", "param_groups") or not dot:
            raise _unknown(path, f"'{key}' belongs to no parameter")
        (state if head == "state" else settings).setdefault(name, {})[last] = part
    groups: list[tuple[dict[object, object], list[Key]]] = []
    for one in dict.fromkeys([*settings, *state]):
        own = settings.get(one, {})
        same = next((keys for known, keys in groups if known == own), None)
        if same is None:
            groups.append((own, [one]))
        else:
            same.append(one)
    read = tuple(Group(tuple(keys), None, own) for own, keys in groups)
    return Optimizer(path, "flat", read, state, node)


def _flattened(groups: Sequence[Group], state: Mapping[Key, Fields]) -> dict[object, object]:
    flat: dict[object, object] = {
        f"state.{key}.{name}": part
        for key, fields in state.items()
        for name, part in fields.items()
    }
    for group in groups:
        for key in group.keys:
            flat |= {f"param_groups.{key}.{name}": v for name, v in group.settings.items()}
    return flat


def _group_node(old: Sequence[object], number: int, group: Group) -> object:
    """The node of a group; its keys keep the order of the group that stood there."""
    like = old[min(number, len(old) - 1)]
    own: dict[object, object] = {"params": list(group.keys)}
    own |= {} if group.names is None else {"param_names": list(group.names)}
    own |= group.settings
    order = [key for key in entries_of(like) or {} if key in own]
    return with_entries(like, {key: own[key] for key in dict.fromkeys([*order, *own])})


def _others(optimizer: Optimizer) -> Iterator[tuple[object, object]]:
    """State that belongs to no parameter; there are no tensors in it."""
    every = (key for group in optimizer.groups for key in group.keys)
    keys = {str(key) if optimizer.as_texts else key for key in every}
    states = entries_of((entries_of(optimizer.node) or {}).get("state")) or {}
    return ((key, part) for key, part in states.items() if key not in keys)


def _holds_tensors(node: object) -> bool:
    seen, queue = {id(node)}, [node]
    while queue:
        part = queue.pop()
        if isinstance(part, Tensor):
            return True
        for inner in content(part):
            if id(inner) not in seen:
                seen.add(id(inner))
                queue.append(inner)
    return False


def _unknown(path: Path, why: str) -> MigrationError:
    return MigrationError(
        "CKM569",
        "the state of the optimizer is in a form that is not known",
        where=".".join(map(str, path)) or None,
        why=f"{why[0].upper()}{why[1:]}.",
        fix="Leave it out: --optimizer drop. Training then begins with a fresh optimizer.",
    )
