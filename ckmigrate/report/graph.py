"""A graph of revisions as lanes beside text, as `git log --graph` draws commits.

    *    e5, a merge     A node is `*`. Lane c is column 2c; `|` stays in its lane. Between two
    |\\                  lanes `\\` leads from the left one to the right one, and `/` back.
    | *  d4              A line that crosses lanes is `_` up to the lane beside its goal, and the
    * |  c3              second of two `/`.
    |/
    *    b2

The newest node comes first. A lane is where the line to one awaited node runs; two lines to the
same node share one, so the drawing is as wide as branches are open at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Row", "draw"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the drawing; `node` is None where it only leads from one node to the next."""

    lanes: str
    node: str | None = None


def draw(nodes: Iterable[tuple[str, Sequence[str]]], *, mark: str = "*") -> list[Row]:
    """The rows for nodes with their parents, children before parents; a node stands once.

    A parent that is no node itself keeps its lane to the end.
    """
    lanes = _Lanes()
    rows: list[Row] = []
    for node, parents in nodes:
        rows.append(Row(lanes.node(node, mark), node))
        rows += map(Row, lanes.lead_on(node, tuple(dict.fromkeys(parents))))
    return rows


class _Lanes:
    """The nodes that are awaited, by lane, while a drawing grows downwards."""

    def __init__(self) -> None:
        self.open: list[str] = []

    def node(self, node: str, mark: str) -> str:
        """The row of a node; a newest one opens the last lane."""
        if node not in self.open:
            self.open.append(node)
        return " ".join(mark if waited == node else "|" for waited in self.open)

    def lead_on(self, node: str, parents: Sequence[str]) -> list[str]:
        """The rows below a node, until the lane of each parent runs straight on."""
        keeps = next((parent for parent in parents if parent not in self.open), None)
        rows: list[str] = []
        # The last one first: each new lane opens beside the node and pushes the others aside.
        for parent in reversed([parent for parent in parents if parent != keeps]):
            is_last = keeps is None and parent == parents[0]
            rows += self._line(node, parent, is_last=is_last)
        if keeps is not None:
            self.open[self.open.index(node)] = keeps
        if not parents:
            rows = self._closed(self.open.index(node))
        return rows

    def _line(self, node: str, parent: str, *, is_last: bool) -> list[str]:
        here = self.open.index(node)
        if parent not in self.open:
            return self._opened(here, parent)
        there = self.open.index(parent)
        if is_last:
            left, right = sorted((here, there))
            self.open[left] = parent
            rows = self._leftwards(right, left, stays=False)
            del self.open[right]
            return rows
        if there < here:
            return self._leftwards(here, there, stays=True)
        if there == here + 1:
            return [_text(len(self.open), {2 * here + 1: "\\"})]
        opening = self._opened(here, parent)
        rows = self._leftwards(there + 1, here + 1, stays=False)
        del self.open[there + 1]
        return opening + rows

    def _opened(self, here: int, parent: str) -> list[str]:
        """A new lane at the right of `here`; those behind it move away."""
        moving = {2 * lane + 1: "\\" for lane in range(here, len(self.open))}
        self.open.insert(here + 1, parent)
        return [_text(here + 1, moving)]

    def _closed(self, here: int) -> list[str]:
        """Nothing comes below: the lanes behind move up."""
        del self.open[here]
        moving = {2 * lane + 1: "/" for lane in range(here, len(self.open))}
        return [_text(here, moving)] if moving else []

    def _leftwards(self, here: int, there: int, *, stays: bool) -> list[str]:
        """The line of a lane joins another at its left; where it does not stay, those behind it
        move up."""
        count = len(self.open)
        moving = {2 * here - 1: "/"}
        moving |= {2 * lane + 1: "_" for lane in range(there + 1, here - 1)}
        if not stays:
            moving |= {2 * lane - 1: "/" for lane in range(here + 1, count)}
        rows = [_text(count if stays else here, moving)]
        if here - there > 1:
            rows.append(_text(count if stays else count - 1, {2 * there + 1: "/"}))
        return rows


def _text(straight: int, moving: dict[int, str]) -> str:
    """A row of so many straight lanes, and of what stands in the columns between lanes."""
    width = max([2 * straight - 1, *(column + 1 for column in moving)], default=0)
    return "".join(
        moving.get(column, "|" if column % 2 == 0 and column < 2 * straight else " ")
        for column in range(width)
    ).rstrip()
