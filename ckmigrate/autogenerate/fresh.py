"""What is left on one side only: dropped entries and new ones.

Either is certain only where nothing is on the other side that it could have become, or come of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.copies import copy_readings, twins
from ckmigrate.autogenerate.families import families, is_number
from ckmigrate.autogenerate.fresh_text import Fresh
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Certainty, Proposal
from ckmigrate.autogenerate.rows import Reading, Row, propose_rows
from ckmigrate.spec import TensorSpec

__all__ = ["propose_drops", "propose_gone", "propose_new"]

_GONE = "not in the model any more"


def propose_drops(board: Board) -> None:
    """What went, by whole subtrees, after everything that could explain it.

    Not what somebody renamed: its name may be wrong, and its values are wanted.
    """
    gone = {name: spec for name, spec in board.vanished.items() if name not in board.wished}
    for node, names in _subtrees(gone, board.schema).items():
        asked = any(board.may_be_wanted(spec) for spec in {gone[name] for name in names})
        certainty: Certainty = "guess" if asked else "certain"
        why = "no longer in the model" + ("" if not asked else "; or what is new came of it")
        _drop(board, node, names, certainty, why)


def propose_gone(board: Board, names: Collection[str], certainty: Certainty, why: str) -> None:
    """Drop these entries, by whole subtrees where no other entry is in them."""
    gone = {name: spec for name, spec in board.schema.items() if name in names}
    gone = {name: spec for name, spec in gone.items() if name not in board.wished}
    parts: dict[str, list[str]] = {}
    for name in gone:
        parts.setdefault(name.rpartition(".")[0], []).append(name)
    for some in parts.values():
        _drop(board, some[0].rpartition(".")[0], some, certainty, why)


def propose_new(board: Board, fresh: Fresh, gone: Collection[TensorSpec]) -> None:
    """What came, one call for every family. gone: what was dropped on the way."""
    came = {n: s for n, s in board.appeared.items() if not fresh.cannot_make(n)}
    asked_specs = {spec for spec in set(came.values()) if board.may_be_given(spec, gone)}
    asked = {
        name.rpartition(".")[0]
        for name, spec in came.items()
        if not fresh.knows(name) or spec in asked_specs
    }
    twin_of = twins(came, board.schema)
    asked.update(twin_of)
    for family in families(came):
        groups: dict[tuple[TensorSpec, bool], list[str]] = {}
        for index, name in family.members.items():
            key = family.specs[index], name.rpartition(".")[0] in asked
            groups.setdefault(key, []).append(name)
        for (spec, is_asked), names in groups.items():
            copies = copy_readings(board, names, twin_of)
            _make(board, fresh, names, spec, "guess" if is_asked else "certain", copies)


def _make(
    board: Board,
    fresh: Fresh,
    names: Sequence[str],
    spec: TensorSpec,
    certainty: Certainty,
    copies: tuple[Proposal, ...],
) -> None:
    doubts = list(dict.fromkeys(filter(None, map(fresh.doubt, names))))
    if not doubts and certainty != "certain":
        doubts = ["or a copy" if copies else "or made of something that went"]
    why = "; ".join(["new", *doubts])
    for call in fresh.calls(names, spec):
        made = tuple(name for name in names if _makes(call, name, names))
        others = copies if len(made) == len(names) else ()
        board.add(Proposal("init", call, (), made, certainty, why, others))


def _makes(call: str, name: str, names: Sequence[str]) -> bool:
    """A loop makes all of them, a plain call the one that it names."""
    return call.startswith("for ") or f"({quoted(name)}," in call or len(names) == 1


def _subtrees(gone: Mapping[str, TensorSpec], known: Collection[str]) -> dict[str, list[str]]:
    """The highest modules of which everything went, folded over numbers, with their names."""
    kept: set[str] = set()
    for name in known:
        if name not in gone:
            parts = _folded(name)
            kept.update(".".join(parts[:n]) for n in range(len(parts)))
    found: dict[str, list[str]] = {}
    for name in gone:
        parts = _folded(name)
        tops = (".".join(parts[:n]) for n in range(1, len(parts)))
        node = next((top for top in tops if top not in kept), ".".join(parts))
        found.setdefault(node, []).append(name)
    return found


def _folded(name: str) -> list[str]:
    return ["#" if is_number(part) else part for part in name.split(".")]


def _drop(board: Board, node: str, names: Sequence[str], certainty: Certainty, why: str) -> None:
    """`aux_head.**` where that catches nothing else, else by families."""
    letters = iter("ijklmn")
    pattern = ".".join(f"{{{next(letters)}}}" if p == "#" else p for p in node.split("."))
    text = f"ck.drop({quoted(pattern + '.**')}, reason={quoted(_GONE)})"
    is_module = all(len(name.split(".")) > len(node.split(".")) for name in names)
    if is_module and board.add(Proposal("drop", text, tuple(names), (), certainty, why)):
        return

    def write(sources: tuple[str, ...], targets: tuple[str, ...], rows: Sequence[Row]) -> str:
        return f"ck.drop({quoted(sources[0])}, reason={quoted(_GONE)})"

    rows = [Row((name,), ()) for name in names]
    propose_rows(board, rows, Reading("drop", write, why), certainty)
