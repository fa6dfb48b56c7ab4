"""A deliberately naive interpreter of migrations: every element really moves, one step at a time.

An entry is a dtype and an object array of whole numbers, the bit patterns of its elements. The
class answers to the same calls as `ck`, with concrete names, and shares no code with the
expressions of ckmigrate. Sub-byte elements are packed from the low end of each byte.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckmigrate.spec import DType

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Entry:
    dtype: DType
    items: Array


def items_of(values: Sequence[int], shape: tuple[int, ...]) -> Array:
    flat = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        flat[place] = value
    return flat.reshape(shape)


def pack(entry: Entry) -> bytes:
    """The row-major bytes of an entry."""
    number = 0
    bits = entry.dtype.bits
    flat = list(entry.items.reshape(-1))
    if bits >= 8:
        return b"".join(int(value).to_bytes(bits // 8, "little") for value in flat)
    for place, value in enumerate(flat):
        number |= int(value) << (place * bits)
    return number.to_bytes((len(flat) * bits + 7) // 8, "little")


class Naive:
    def __init__(self, entries: dict[str, Entry], ties: Iterable[Sequence[str]] = ()) -> None:
        self.entries = dict(entries)
        self.ties: list[list[str]] = [list(group) for group in ties]

    def bytes_by_name(self) -> dict[str, bytes]:
        return {name: pack(entry) for name, entry in self.entries.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.entries[name].items.shape)

    # names

    def _replace(self, gone: Sequence[str], new: list[tuple[str, Entry]]) -> None:
        """A new name stands where the first of `gone` stood; one that was there stays there."""
        result: dict[str, Entry] = {}
        made = dict(new)
        for name, entry in self.entries.items():
            if gone and name == gone[0]:
                result.update((n, e) for n, e in new if n == name or n not in gone)
            elif name in gone and name in made:
                result[name] = made[name]
            if name not in gone:
                assert name not in made, name
                result[name] = entry
        if not gone:
            result.update(new)
        self.entries = result

    def _leave(self, names: Iterable[str]) -> None:
        gone = set(names)
        self.ties = [[n for n in group if n not in gone] for group in self.ties]
        self.ties = [group for group in self.ties if len(group) > 1]

    def _follow(self, gone: Sequence[str], new: Sequence[str]) -> None:
        """A tie follows where one entry became one entry, and ends otherwise."""
        if len(gone) == len(new) == 1:
            self.ties = [[new[0] if n == gone[0] else n for n in group] for group in self.ties]
        else:
            self._leave(gone)

    def rename(self, old: str, new: str) -> None:
        """Literal names, `{a,b}` to `{b,a}`, or `{rest:**}` to `prefix.{rest}`."""
        if old.startswith("{rest"):
            mapping = {name: new.replace("{rest}", name) for name in self.entries}
        elif old.startswith("{"):
            mapping = dict(zip(old[1:-1].split(","), new[1:-1].split(","), strict=True))
        else:
            mapping = {old: new}
        self.entries = {mapping.get(name, name): e for name, e in self.entries.items()}
        self.ties = [[mapping.get(name, name) for name in group] for group in self.ties]

    def drop(self, name: str, *, reason: str) -> None:
        assert reason
        self._replace([name], [])
        self._leave([name])

    def copy(self, name: str, target: str) -> None:
        entry = self.entries[name]
        self._replace([name], [(name, entry), (target, entry)])

    def tie(self, name: str, target: str) -> None:
        self.copy(name, target)
        for group in self.ties:
            if name in group:
                group.append(target)
                return
        self.ties.append([name, target])

    def untouched(self) -> list[list[str]]:
        """Tied names that are the very same entry: nothing but names changed since."""
        found = []
        for group in self.ties:
            for first in group:
                same = [n for n in group if self.entries[n] is self.entries[first]]
                if len(same) > 1 and same[0] == first:
                    found.append(same)
        return found

    def has_twin(self, part: Sequence[str]) -> bool:
        """Whether another name of the tie has the same values as an untouched part of it: a change
        that changed nothing, such as a permutation of no dimensions, may or may not have parted
        the two."""
        (whole,) = (group for group in self.ties if part[0] in group)
        entry = self.entries[part[0]]
        others = (self.entries[name] for name in whole if name not in part)
        return any(
            other.dtype == entry.dtype and np.array_equal(other.items, entry.items)
            for other in others
        )

    def untie(self, name: str) -> None:
        for group in self.untouched():
            if name in group:
                self._leave(group)

    # one to many and back

    def split(
        self, name: str, targets: Sequence[str], *, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> None:
        entry = self.entries[name]
        if sizes is None:
            sizes = [entry.items.shape[dim] // len(targets)] * len(targets)
        pieces = np.split(entry.items, list(itertools.accumulate(sizes))[:-1], axis=dim)
        self._leave([name])
        made = zip(targets, pieces, strict=True)
        self._replace([name], [(t, Entry(entry.dtype, piece)) for t, piece in made])

    def concat(self, sources: Sequence[str], target: str, *, dim: int = 0) -> None:
        items = np.concatenate([self.entries[name].items for name in sources], axis=dim)
        dtype = self.entries[sources[0]].dtype
        self._leave(sources)
        self._replace(list(sources), [(target, Entry(dtype, items))])

    def stack(self, sources: str, target: str, *, dim: int = 0) -> None:
        start = sources.removesuffix("{e:int}")
        found = [n for n in self.entries if re.fullmatch(re.escape(start) + "[0-9]+", n)]
        found.sort(key=lambda n: int(n.removeprefix(start)))
        items = np.stack([self.entries[name].items for name in found], axis=dim)
        entry = Entry(self.entries[found[0]].dtype, items)
        self._follow(found, [target])
        self._replace(found, [(target, entry)])

    def unstack(self, name: str, targets: str, *, dim: int = 0) -> None:
        entry = self.entries[name]
        made = [
            (targets.replace("{e}", str(i)), Entry(entry.dtype, np.take(entry.items, i, axis=dim)))
            for i in range(entry.items.shape[dim])
        ]
        made = [(n, Entry(e.dtype, _as_array(e.items))) for n, e in made]
        self._follow([name], [n for n, _ in made])
        self._replace([name], made)

    # one to one

    def _change(self, name: str, items: Array) -> None:
        self.entries[name] = Entry(self.entries[name].dtype, _as_array(items))

    def reshape(self, name: str, shape: Sequence[int]) -> None:
        self._change(name, self.entries[name].items.reshape(tuple(shape)))

    def squeeze(self, name: str, dim: int) -> None:
        self._change(name, np.squeeze(self.entries[name].items, axis=dim))

    def unsqueeze(self, name: str, dim: int) -> None:
        self._change(name, np.expand_dims(self.entries[name].items, axis=dim))

    def flatten(self, name: str, start: int = 0, end: int = -1) -> None:
        items = self.entries[name].items
        shape = items.shape
        last = end % items.ndim
        merged = math.prod(shape[start : last + 1])
        self._change(name, items.reshape((*shape[:start], merged, *shape[last + 1 :])))

    def permute(self, name: str, dims: Sequence[int]) -> None:
        self._change(name, np.transpose(self.entries[name].items, tuple(dims)))

    def transpose(self, name: str, dim0: int, dim1: int) -> None:
        self._change(name, np.swapaxes(self.entries[name].items, dim0, dim1))

    def rearrange(self, name: str, equation: str, **sizes: int) -> None:
        """By index arithmetic on every single element."""
        items = self.entries[name].items
        left, right = (_groups(side) for side in equation.split("->"))
        for group, size in zip(left, items.shape, strict=True):
            for axis in group:
                if axis not in sizes:
                    sizes[axis] = size // math.prod(sizes[a] for a in group if a != axis)
        shape = tuple(math.prod(sizes[axis] for axis in group) for group in right)
        result = np.empty(shape, dtype=object)
        axes = list(sizes)
        for places in itertools.product(*(range(sizes[axis]) for axis in axes)):
            place = dict(zip(axes, places, strict=True))
            result[_index(right, sizes, place)] = items[_index(left, sizes, place)]
        self._change(name, result)

    def slice(self, name: str, *, dim: int, start: int = 0, stop: int | None = None) -> None:
        items = self.entries[name].items
        chosen = range(items.shape[dim])[start:stop]
        self._change(name, np.take(items, list(chosen), axis=dim))

    def resize(self, name: str, shape: Sequence[int], *, anchor: str = "start") -> None:
        old = self.entries[name].items
        new = np.full(tuple(shape), 0, dtype=object)
        for places in itertools.product(*map(range, new.shape)):
            origin = []
            for place, was, now in zip(places, old.shape, new.shape, strict=True):
                gap = abs(now - was)
                shift = {"start": 0, "center": gap // 2, "end": gap}[anchor]
                origin.append(place - shift if now >= was else place + shift)
            if all(0 <= o < n for o, n in zip(origin, old.shape, strict=True)):
                new[places] = old[tuple(origin)]
        self._change(name, new)

    def gather(
        self, name: str, index: Sequence[int | None], *, dim: int = 0, fill: int | None = None
    ) -> None:
        items = np.moveaxis(self.entries[name].items, dim, 0)
        new = np.full((len(index), *items.shape[1:]), 0, dtype=object)
        for place, row in enumerate(index):
            if row is not None:
                new[place] = items[row]
            else:
                assert fill == 0
        self._change(name, np.moveaxis(new, 0, dim))

    def init(self, name: str, *, shape: Sequence[int], dtype: DType = DType.F32) -> None:
        self._replace([], [(name, Entry(dtype, np.full(tuple(shape), 0, dtype=object)))])

    def assign(self, target: str, pieces: Sequence[tuple[str, Any]], dim: int | None) -> None:
        """`target = concat([name[subscript], …], dim)`, or one piece alone."""
        found = [_as_array(self.entries[name].items[key]) for name, key in pieces]
        items = found[0] if dim is None else np.concatenate(found, axis=dim)
        entry = Entry(self.entries[pieces[0][0]].dtype, items)
        gone = [target] if target in self.entries else []
        self._replace(gone, [(target, entry)])


def _as_array(items: object) -> Array:
    if isinstance(items, np.ndarray):
        return items
    result = np.empty((), dtype=object)
    result[()] = items
    return result


def _groups(side: str) -> list[list[str]]:
    found = re.findall(r"\(([^)]*)\)|(\w+)", side)
    return [group.split() if group else [axis] for group, axis in found]


def _index(
    groups: list[list[str]], sizes: dict[str, int], place: dict[str, int]
) -> tuple[int, ...]:
    index = []
    for group in groups:
        number = 0
        for axis in group:
            number = number * sizes[axis] + place[axis]
        index.append(number)
    return tuple(index)
