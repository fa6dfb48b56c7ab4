"""Which tensors of a copy are which weights, told by their names.

The keys of a copy are names of weights, all with one prefix before them (`module.` of an
AveragedModel, `ema_model.`, none), or with several prefixes where it holds several copies. It may
hold some of the weights only, and counters of its own beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckmigrate.formats.state_dict import is_extra_state, kind_of
from ckmigrate.formats.tree import Storage, Tensor
from ckmigrate.formats.tree_paths import entries_of, holders

__all__ = ["Group", "NotCarried", "read_groups"]

_SHOWN = 3

Readings = Mapping[str, frozenset[str]]
"""The prefixes that a key can have, by key."""


class NotCarried(Exception):  # noqa: N818 - a verdict that the caller collects
    """Raised where training state cannot follow with certainty; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Group:
    """One copy: the prefix of its keys, and its tensors by the names of the weights.

    of_parameters  whether it can hold no buffers, whatever else it holds
    """

    prefix: str
    tensors: Mapping[str, Tensor]
    of_parameters: bool = False


def read_groups(node: object, weights: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """The copies of weights that a node holds; NotCarried where a tensor in it is neither a copy of
    one certain weight nor a single number."""
    tensors = _tensors(node)
    readings = {key: frozenset(_prefixes(key, t, weights)) for key, t in tensors.items()}
    copies = {key: found for key, found in readings.items() if found or tensors[key].spec.numel > 1}
    _require_names(copies, tensors, weights)
    by_prefix: dict[str, dict[str, Tensor]] = {}
    for key, prefix in _chosen(copies).items():
        by_prefix.setdefault(prefix, {})[key.removeprefix(prefix)] = tensors[key]
    return tuple(Group(prefix, found) for prefix, found in by_prefix.items())


def _tensors(node: object) -> dict[str, Tensor]:
    entries = entries_of(node)
    if entries is None:
        raise NotCarried(f"its tensors have no names: it is {kind_of(node)}")
    holding = holders(node, lambda part: isinstance(part, Tensor | Storage))
    found: dict[str, Tensor] = {}
    for key, part in entries.items():
        if isinstance(part, Tensor) and isinstance(key, str):
            found[key] = part
        elif id(part) in holding and not is_extra_state(str(key)):
            raise NotCarried(f"'{key}' in it is {kind_of(part)} with tensors, and no copy by name")
    return found


def _prefixes(key: str, tensor: Tensor, weights: Mapping[str, Tensor]) -> Iterator[str]:
    """Every prefix without which the key is the name of a weight of this shape."""
    start = 0
    while start >= 0:
        weight = weights.get(key[start:])
        if weight is not None and weight.spec.shape == tensor.spec.shape:
            yield key[:start]
        start = key.find(".", start) + 1 or -1


def _require_names(
    copies: Readings, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    if not any(copies.values()):
        raise NotCarried("the names in it are not those of the weights")
    odd = [key for key, found in copies.items() if not found]
    if not odd:
        return
    key = odd[0]
    more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
    if key in weights:
        shapes = f"{tensors[key].spec}, the weight {weights[key].spec}"
        raise NotCarried(f"'{key}' in it is {shapes}{more}")
    raise NotCarried(f"'{key}' in it is no weight by name and shape{more}")


def _chosen(readings: Readings) -> dict[str, str]:
    """The prefix of each key: one for all of them, or else the only one that each can have."""
    common = frozenset.intersection(*readings.values())
    if "" in common:
        return dict.fromkeys(readings, "")
    if len(common) == 1:
        return dict.fromkeys(readings, next(iter(common)))
    unsure = [key for key, found in readings.items() if len(found) > 1]
    if unsure:
        shown = ", ".join(f"'{key}'" for key in unsure[:_SHOWN])
        raise NotCarried(f"these names in it could be those of several weights: {shown}")
    return {key: next(iter(found)) for key, found in readings.items()}
