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
    nodes = (n for n in ast.walk(_parsed(source)) if isinstance(n, ast.FunctionDef | ast.Lambda))
    found = [node for node in nodes if _is_it(node, function.__code__)]
    return min(found, key=lambda node: len(ast.dump(node)), default=None)


def _is_it(node: FunctionNode, code: types.CodeType) -> bool:
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    if code.co_name != "<lambda>":
        return False
    begin = (node.body.lineno, node.body.col_offset)
    end = (node.body.end_lineno or 0, node.body.end_col_offset or 0)
    return all(
        begin <= (line, column) and (last, stop) <= end
        for line, last, column, stop in code.co_positions()
        if line and last and column is not None and stop is not None and column < stop
    )
