"""Other values for the literals of a script; every byte that is not part of them stays.

Positions come from the syntax tree, so comments, line ends, the encoding and the way in which a
script is formatted are kept. The result is read again and compared with what was wanted: a script
that is written in a way that this cannot follow is refused, never damaged.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
import warnings
from collections.abc import Mapping
from pathlib import Path

from ckmigrate.revisions.syntax import parse_declared, refuse

__all__ = ["with_literals"]

_WIDEST = 88


def with_literals(data: bytes, path: Path, values: Mapping[str, object]) -> bytes:
    """The bytes of a script with these literals: changed where they stand, new ones below
    `revises`.

    HistoryError CKM331 where the result would not say what was asked for; and CKM301 to CKM307
    where the script cannot be read in the first place.
    """
    before = parse_declared(data, path).literals
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    changed = _rewritten(data.decode(encoding), values).encode(encoding)
    if parse_declared(changed, path).literals != {**before, **values}:
        refuse(
            "CKM331",
            f"the literals of {path.name} cannot be rewritten",
            path,
            why="they share a line, or a value, with other statements",
            fix="Write `revision = …` and `revises = …` on lines of their own.",
        )
    return changed


def _rewritten(text: str, values: Mapping[str, object]) -> str:
    lines = list(io.StringIO(text, newline=""))
    spans = _spans(text)
    end = "\r\n" if any(line.endswith("\r\n") for line in lines) else "\n"
    edits = []
    for name, value in values.items():
        if name in spans:
            node, _ = spans[name]
            first = _offset(lines, node.lineno, node.col_offset)
            last = _offset(lines, node.end_lineno or node.lineno, node.end_col_offset or 0)
            edits.append((first, last, _literal(value, end)))
        else:
            row = spans["revises"][1]
            place = sum(map(len, lines[:row]))
            gap = "" if lines[row - 1].endswith(("\n", "\r")) else end
            edits.append((place, place, f"{gap}{name} = {_literal(value, end)}{end}"))
    for first, last, new in sorted(edits, reverse=True):
        text = text[:first] + new + text[last:]
    return text


def _spans(text: str) -> dict[str, tuple[ast.expr, int]]:
    """The value of each name that is assigned at the top level, and the last line of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    found: dict[str, tuple[ast.expr, int]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            row = statement.end_lineno or statement.lineno
            found |= {t.id: (statement.value, row) for t in targets if isinstance(t, ast.Name)}
    return found


def _offset(lines: list[str], row: int, column: int) -> int:
    """Characters before a place that the syntax tree counts in bytes of UTF-8."""
    return sum(map(len, lines[: row - 1])) + len(lines[row - 1].encode()[:column].decode())


def _literal(value: object, end: str) -> str:
    if isinstance(value, dict):
        items = [f"{_literal(key, end)}: {_literal(item, end)}" for key, item in value.items()]
        short = "{" + ", ".join(items) + "}"
        if len(short) <= _WIDEST:
            return short
        return "{" + end + "".join(f"    {item},{end}" for item in items) + "}"
    if isinstance(value, tuple):
        comma = "," if len(value) == 1 else ""
        return f"({', '.join(_literal(item, end) for item in value)}{comma})"
    return json.dumps(value) if isinstance(value, str) else repr(value)
