"""Names folded over the numbers in them: one family per skeleton, with a spec per index.

    blocks.{0..11}.attn.q.weight F32[64,64]   →  path blocks.#.attn.q.weight,
                                                 members {(0,): (name, spec), …}

Two families that have equal specs at equal indices may be one under two names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckmigrate.spec import TensorSpec

__all__ = ["Family", "Index", "families", "is_number", "singles"]

Index = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Names that differ in numbers only.

    path     the segments of the skeleton, "#" for a number
    members  index → name
    specs    index → spec
    """

    path: tuple[str, ...]
    members: Mapping[Index, str]
    specs: Mapping[Index, TensorSpec]

    @property
    def leaf(self) -> str:
        return self.path[-1]


def is_number(segment: str) -> bool:
    """Whether a segment is an index: ASCII digits without leading zeros."""
    return segment.isascii() and segment.isdecimal() and str(int(segment)) == segment


def families(specs: Mapping[str, TensorSpec]) -> list[Family]:
    """Every family, in the order of its first name."""
    found: dict[tuple[str, ...], dict[Index, str]] = {}
    for name in specs:
        segments = name.split(".")
        path = tuple("#" if is_number(s) else s for s in segments)
        index = tuple(s for s in segments if is_number(s))
        found.setdefault(path, {})[index] = name
    return [
        Family(path, members, {index: specs[name] for index, name in members.items()})
        for path, members in found.items()
    ]


def singles(specs: Mapping[str, TensorSpec]) -> list[Family]:
    """Every name as a family of its own, numbers unfolded."""
    return [Family(tuple(n.split(".")), {(): n}, {(): s}) for n, s in specs.items()]
