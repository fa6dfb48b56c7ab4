"""The einops notation for one tensor: "(h two d) c -> (h d two) c".

Names stand for dimensions; a group in parentheses is one dimension made of several; `1` is a
dimension of size one. Both sides hold the same names; nothing is reduced or repeated.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from ckmigrate.spec import TensorSpec
from ckmigrate.step import refuse

__all__ = ["Rearrangement", "parse_rearrangement"]

_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|1|\(|\))")


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """Each side as a tuple of dimensions, each dimension a tuple of axis names (() for a 1)."""

    equation: str
    left: tuple[tuple[str, ...], ...]
    right: tuple[tuple[str, ...], ...]

    def solve(
        self, name: str, spec: TensorSpec, sizes: dict[str, int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(factors, order, shape) for a tensor; MigrationError CKM525 where sizes do not fit."""
        axes = [axis for dim in self.left for axis in dim]
        unknown = sorted(set(sizes) - set(axes))
        if unknown:
            raise self._refuse(name, spec, f"It has no axis named {', '.join(unknown)}.")
        for axis, given in sizes.items():
            if not isinstance(given, int) or isinstance(given, bool) or given < 0:
                raise self._refuse(name, spec, f"{axis}={given!r} is not a size.")
        if len(self.left) != spec.ndim:
            raise self._refuse(
                name, spec, f"Its left side has {len(self.left)} dimensions, not {spec.ndim}."
            )
        known = dict(sizes)
        for dim, size in zip(self.left, spec.shape, strict=True):
            self._fit(name, spec, dim, size, known)
        target = [axis for dim in self.right for axis in dim]
        factors = tuple(known[axis] for axis in axes)
        order = tuple(axes.index(axis) for axis in target)
        return factors, order, tuple(math.prod(known[a] for a in dim) for dim in self.right)

    def _fit(
        self, name: str, spec: TensorSpec, dim: tuple[str, ...], size: int, known: dict[str, int]
    ) -> None:
        open_axes = [axis for axis in dim if axis not in known]
        given = math.prod(known[axis] for axis in dim if axis in known)
        text = f"({' '.join(dim)})" if len(dim) != 1 else dim[0]
        if len(open_axes) > 1:
            raise self._refuse(
                name, spec, f"The sizes of {' and '.join(open_axes)} in {text} are not known."
            )
        if open_axes and given and size % given == 0:
            known[open_axes[0]] = size // given
        elif open_axes or given != size:
            raise self._refuse(name, spec, f"{text} has {given} from its given sizes, not {size}.")

    def _refuse(self, name: str, spec: TensorSpec, why: str) -> Exception:
        return refuse(
            "CKM525",
            f"'{self.equation}' does not fit '{name}', which is {spec}",
            why=why,
            fix="Give the size of every axis but one in each group, as in h=8.",
        )


@lru_cache(maxsize=256)
def parse_rearrangement(equation: str) -> Rearrangement:
    """Read an equation; MigrationError CKM525 that says what is wrong with it."""
    halves = equation.split("->")
    if len(halves) != 2:
        raise _malformed(equation, "It needs exactly one '->'.")
    left, right = (_side(equation, half) for half in halves)
    names = [[axis for dim in side for axis in dim] for side in (left, right)]
    for side in names:
        twice = sorted({axis for axis in side if side.count(axis) > 1})
        if twice:
            raise _malformed(equation, f"'{twice[0]}' stands twice on one side.")
    odd = sorted(set(names[0]) ^ set(names[1]))
    if odd:
        raise _malformed(equation, f"'{odd[0]}' stands on one side only.")
    return Rearrangement(equation, left, right)


def _side(equation: str, text: str) -> tuple[tuple[str, ...], ...]:
    dims: list[tuple[str, ...]] = []
    group: list[str] | None = None
    position, text = 0, text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise _malformed(equation, f"Cannot read it at '{text[position:].strip()}'.")
        position, word = token.end(), token[1]
        if word == "(":
            if group is not None:
                raise _malformed(equation, "Groups cannot be nested.")
            group = []
        elif word == ")":
            if group is None:
                raise _malformed(equation, "A ')' has no '('.")
            dims.append(tuple(group))
            group = None
        elif group is None:
            dims.append(() if word == "1" else (word,))
        elif word != "1":
            group.append(word)
    if group is not None:
        raise _malformed(equation, "A '(' is not closed.")
    return tuple(dims)


def _malformed(equation: str, why: str) -> Exception:
    return refuse(
        "CKM525",
        f"'{equation}' is not a rearrangement",
        why=why,
        fix='Write for example "(h two d) c -> (h d two) c", the same names on both sides.',
    )
