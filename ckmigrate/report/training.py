"""What becomes of training state, for a plan and for an outcome, as text and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ckmigrate.report.escape import printable, shortened
from ckmigrate.report.units import counted
from ckmigrate.training.carried import CarriedNode, Kind

__all__ = ["training_data", "training_lines", "training_words"]

_LABELS: Final[Mapping[Kind, str]] = {"optimizer": "optimizer", "copy": "ema"}
_NOUNS: Final[Mapping[Kind, tuple[str, str]]] = {
    "optimizer": ("optimizer", "optimizers"),
    "copy": ("copy of weights", "copies of weights"),
}
_MOST: Final = 8


def training_lines(
    nodes: Sequence[CarriedNode], width: int, *, full: bool = False
) -> Iterator[str]:
    """A line for each optimizer and each copy of weights, and what is to be said about it."""
    shown = nodes if full else nodes[:_MOST]
    for node in shown:
        text = f"{_path(node)}: {printable(node.summary.text)}"
        first, *others = [text] if full else _broken(text, width - 14)
        yield f"  {_LABELS[node.kind]:<11} {first}"
        yield from (f"  {'':<11} {other}" for other in others)
        for line in node.summary.lines:
            yield f"  {'':<13} {printable(line) if full else shortened(line, width - 16)}"
    if len(nodes) > len(shown):
        yield f"  {'':<11} … {len(nodes) - len(shown)} more"


def _broken(text: str, width: int) -> Iterator[str]:
    """The text in lines, broken between its parts."""
    first, *parts = text.split("; ")
    line = first
    for part in parts:
        if len(line) + len(part) + 3 > width:
            yield shortened(line + ";", width)
            line = part
        else:
            line += f"; {part}"
    yield shortened(line, width)


def training_words(nodes: Sequence[CarriedNode]) -> str:
    """ "1 optimizer, 2 copies of weights"; empty where nothing is carried."""
    count = {kind: sum(node.kind == kind for node in nodes) for kind in _NOUNS}
    return ", ".join(counted(n, *_NOUNS[kind]) for kind, n in count.items() if n)


def training_data(node: CarriedNode) -> dict[str, object]:
    """The same for JSON."""
    return {
        "path": ".".join(map(str, node.path)),
        "kind": node.kind,
        "summary": node.summary.text,
        "details": list(node.summary.lines),
        "counts": dict(node.summary.counts),
    }


def _path(node: CarriedNode) -> str:
    return printable(".".join(map(str, node.path)))
