"""Doubt that spreads.

Where an element was put into a list cannot be told from a part of it. A module that shares a tensor
with another one, or has as many elements as its neighbour, may have begun as its copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.spec import TensorSpec

__all__ = ["spread_doubt"]

_SECOND = ("tie", "copy")


def spread_doubt(
    proposals: Sequence[Proposal], old: Mapping[str, TensorSpec], new: Mapping[str, TensorSpec]
) -> Iterator[Proposal]:
    """The proposals; what is certainly new, or gone, in an element of a list of which nothing is
    kept for certain is a guess, once anything in that element is one. So is an element more, or
    less, of a list in which anything else is one: it may have been put in, or taken out, there. So
    is what is new in a module of which something is another module's, or beside one of as many
    elements by the same names.

    old and new are the entries before and after: `blocks.2.fc.weight` is in element `blocks.2`.
    """
    takes = {name: item for item in proposals for name in item.sources}
    gives = {name: item for item in proposals for name in item.targets}
    is_open = _open(old, takes, "drop") | _open(new, gives, "init")
    is_open |= _moved(old, new, proposals)
    shared = {_module(n) for p in proposals if p.kind in _SECOND for n in p.targets}
    shared |= _twins(old, new)
    for item in proposals:
        names = {"init": item.targets, "drop": item.sources}.get(item.kind, ())
        doubted = any(element in is_open for name in names for element in _elements(name))
        doubted |= item.kind == "init" and any(_module(name) in shared for name in names)
        is_spread = doubted and item.certainty == "certain"
        yield replace(item, certainty="guess") if is_spread else item


def _open(names: Iterable[str], items: Mapping[str, Proposal], kind: str) -> set[str]:
    """The elements of which every entry is of this kind or not certain, and one is not."""
    inside: dict[str, list[Proposal | None]] = {}
    for name in names:
        for element in _elements(name):
            inside.setdefault(element, []).append(items.get(name))
    return {
        element
        for element, found in inside.items()
        if all(item and (item.kind == kind or item.certainty != "certain") for item in found)
        and any(item and item.certainty != "certain" for item in found)
    }


def _moved(old: Iterable[str], new: Iterable[str], proposals: Iterable[Proposal]) -> set[str]:
    """The elements that are on one side only, of lists in which something is not certain."""
    open_ones = [p for p in proposals if p.certainty != "certain"]
    readings = [q for p in open_ones for q in (p, *p.alternatives)]
    touched = {name for p in readings for name in (*p.sources, *p.targets)}
    doubted = {_module(element) for name in touched for element in _elements(name)}
    before, after = ({e for name in names for e in _elements(name)} for names in (old, new))
    return {element for element in before ^ after if _module(element) in doubted}


def _elements(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end, part in enumerate(parts, start=1):
        if part.isdecimal() and end < len(parts):
            yield ".".join(parts[:end])


def _twins(old: Mapping[str, TensorSpec], new: Mapping[str, TensorSpec]) -> set[str]:
    """Modules with a neighbour, before or after, whose entries have as many elements; vectors alone
    are alike too often."""
    alike: dict[object, set[str]] = {}
    for schema in (old, new):
        sizes: dict[str, dict[str, int]] = {}
        large = {_module(name) for name, spec in schema.items() if spec.ndim > 1}
        for name, spec in schema.items():
            module, _, leaf = name.rpartition(".")
            sizes.setdefault(module, {})[leaf] = spec.numel
        for module, leaves in ((name, sizes[name]) for name in sizes if name in large):
            key = (_module(module), frozenset(leaves.items()))
            alike.setdefault(key, set()).add(module)
    return {module for modules in alike.values() if len(modules) > 1 for module in modules}


def _module(name: str) -> str:
    return name.rpartition(".")[0]
