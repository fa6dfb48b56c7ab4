"""New entries as calls of `ck.init`: one for a whole stack of blocks where that can be said."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckmigrate.autogenerate.families import Family, families
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.spec import DType, TensorSpec

__all__ = ["Fresh"]

_LETTERS = "ijklmn"
_UNKNOWN = "how the model fills it is not known, so zeros"


@dataclass(frozen=True, slots=True)
class Fresh:
    """How new entries are made; zeros where that is not known.

    initialisers  name → text of the initialiser
    unsure        name → why that text is in doubt, or why there is none
    """

    initialisers: Mapping[str, str]
    unsure: Mapping[str, str] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        return name in self.initialisers and name not in self.unsure

    def doubt(self, name: str) -> str:
        """Why its initialiser may be another; "" where it is known."""
        unknown = "" if name in self.initialisers else _UNKNOWN
        return self.unsure.get(name, unknown)

    def cannot_make(self, name: str) -> bool:
        """Whether no initialiser makes it: the model computes its values."""
        return name in self.unsure and name not in self.initialisers

    def calls(self, names: Sequence[str], spec: TensorSpec) -> list[str]:
        """Calls that make these names, all of one spec."""
        groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for family in families(dict.fromkeys(names, spec)):
            for name in family.members.values():
                key = self.initialisers.get(name, ""), family.path
                groups.setdefault(key, []).append(name)
        return [
            line
            for (value, _), members in groups.items()
            for line in _lines(members, spec, f", value={value}" if value else "")
        ]


def _lines(names: Sequence[str], spec: TensorSpec, value: str) -> list[str]:
    kind = "" if spec.dtype is DType.F32 else f", dtype={quoted(str(spec.dtype))}"
    arguments = f"shape={spec.shape}{value}{kind}"
    (family,) = families(dict.fromkeys(names, spec))
    loops = _loops(family) if len(names) > 1 else None
    if loops is None:
        return [f"ck.init({quoted(name)}, {arguments})" for name in names]
    heads, pattern = loops
    lines = [f"{'    ' * depth}{head}" for depth, head in enumerate(heads)]
    return ["\n".join([*lines, f"{'    ' * len(heads)}ck.init(f{quoted(pattern)}, {arguments})"])]


def _loops(family: Family) -> tuple[list[str], str] | None:
    """Loops over the numbers that vary, and the name with them filled in.

    None where the indices are not every combination, or the name cannot stand in an f-string.
    """
    columns = [tuple(dict.fromkeys(column)) for column in zip(*family.members, strict=True)]
    every = set(itertools.product(*columns))
    if every != set(family.members) or any(set(part) & set('{}"\\') for part in family.path):
        return None
    numbers, letters = iter(columns), iter(_LETTERS)
    heads, path = [], []
    for part in family.path:
        column = next(numbers) if part == "#" else (part,)
        if len(column) == 1:
            path.append(column[0])
            continue
        letter = next(letters, "z")
        heads.append(f"for {letter} in {_numbers(column)}:")
        path.append(f"{{{letter}}}")
    return heads, ".".join(path)


def _numbers(column: Sequence[str]) -> str:
    found = sorted(map(int, column))
    if found == list(range(found[0], found[-1] + 1)):
        return f"range({found[-1] + 1})" if not found[0] else f"range({found[0]}, {found[-1] + 1})"
    return f"({', '.join(map(str, found))})"
