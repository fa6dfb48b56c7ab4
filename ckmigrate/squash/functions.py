"""The syntax of a function that a script defines, found in the text of the script."""

from __future__ import annotations

import ast
import types
from functools import lru_cache

__all__ = ["FunctionNode", "function_node"]

FunctionNode = ast.FunctionDef | ast.Lambda


@lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def function_node(function: types.FunctionType, source: str) -> FunctionNode | None:
    """The `def` or `lambda` of a function in the text that it was made from; None where the text
    has no such function."""
    code = function.__code__
    found = [node for node in ast.walk(_parsed(source)) if _is_it(node, code)]
    return min(found, key=_length, default=None)  # type: ignore[type-var, arg-type]


def _is_it(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    if not isinstance(node, ast.Lambda) or code.co_name != "<lambda>":
        return False
    begin = (node.body.lineno, node.body.col_offset)
    end = (node.body.end_lineno or 0, node.body.end_col_offset or 0)
    return all(
        begin <= (line, column) and (last, stop) <= end
        for line, last, column, stop in code.co_positions()
        if line and last and column is not None and stop is not None and column < stop
    )


def _length(node: FunctionNode) -> int:
    return len(ast.dump(node))
