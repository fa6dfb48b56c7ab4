"""Doubt that spreads: where an element was put into a list cannot be told from a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ckmigrate.autogenerate.proposal import Proposal

__all__ = ["spread_doubt"]


def spread_doubt(
    proposals: Sequence[Proposal], old: Iterable[str], new: Iterable[str]
) -> Iterator[Proposal]:
    """The proposals; what is certainly new, or gone, in an element of a list of which nothing is
    kept for certain is a guess, once anything in that element is one.

    old and new are the names before and after: `blocks.2.fc.weight` is in element `blocks.2`.
    """
    takes = {name: item for item in proposals for name in item.sources}
    gives = {name: item for item in proposals for name in item.targets}
    is_open = _open(old, takes, "drop") | _open(new, gives, "init")
    for item in proposals:
        names = {"init": item.targets, "drop": item.sources}.get(item.kind, ())
        doubted = any(element in is_open for name in names for element in _elements(name))
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


def _elements(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end, part in enumerate(parts, start=1):
        if part.isdecimal() and end < len(parts):
            yield ".".join(parts[:end])
