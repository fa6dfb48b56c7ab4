"""What a function of a script says, however it is laid out.

The digest of a revision must change with the body of a function that `compute` calls, and must not
change with a formatter, a comment, or the version of Python. So a function is told by its syntax
tree, written down here and not by `ast.dump`, whose text differs between versions: annotations,
docstrings and whatever is empty are left out. What it refers to belongs to it: values that it
closes over, defaults, and everything that the top level of its script binds to a name in it. Of a
function from elsewhere only the name is told: its code is not the script's.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType

__all__ = ["ScriptText"]

_IGNORED = frozenset({"annotation", "ctx", "kind", "returns", "type_comment", "type_params"})
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class ScriptText:
    """The text of functions of one script. `path` is the name that its code was compiled under."""

    source: str
    path: str
    _open: set[int] = field(default_factory=set)

    @functools.cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.source)

    def function(self, function: object, value_text: Callable[[object], str]) -> str:
        """A function, with all that decides what it does; `value_text` writes plain values."""
        if isinstance(function, functools.partial):
            parts = (function.func, function.args, sorted(function.keywords.items()))
            return f"partial({', '.join(map(value_text, parts))})"
        inner = inspect.unwrap(function) if callable(function) else function
        is_own = isinstance(inner, FunctionType) and inner.__code__.co_filename == self.path
        if not is_own or not isinstance(inner, FunctionType):
            return self._foreign(inner)
        if id(inner) in self._open:
            return inner.__name__
        self._open.add(id(inner))
        try:
            return self._own(inner, value_text)
        finally:
            self._open.discard(id(inner))

    def _own(self, function: FunctionType, value_text: Callable[[object], str]) -> str:
        nodes = self._nodes(function.__code__)
        values = {
            **_closure(function),
            "defaults": function.__defaults__,
            "named": function.__kwdefaults__,
        }
        held = [
            f"{name}={value_text(value)}" for name, value in values.items() if value is not None
        ]
        return " ".join([*map(_dump, nodes), *self._referred(nodes), *held])

    def _foreign(self, function: object) -> str:
        """The name of a function, or of the class whose instance is called."""
        if hasattr(function, "__name__"):
            return str(function.__name__)
        name = type(function).__name__
        return " ".join([name, *self._referred([ast.Name(name, ast.Load())])])

    def _nodes(self, code: CodeType) -> list[_Function]:
        """Where the function stands; several where one line holds more than can be told apart."""
        nodes = [
            node
            for node in ast.walk(self._tree)
            if isinstance(node, _Function)
            and _first_line(node) == code.co_firstlineno
            and getattr(node, "name", "<lambda>") == code.co_name
        ]
        places = _places(code)
        inside = [[node] for node in nodes if places and _holds(node, places)]
        return min(inside, key=_size, default=nodes)

    def _referred(self, nodes: list[_Function] | list[ast.Name]) -> list[str]:
        """What the top level binds to names that are used, directly or by what it refers to."""
        found: dict[str, str] = {}
        waiting: list[ast.AST] = [*nodes]
        while waiting:
            names = {n.id for n in ast.walk(waiting.pop()) if isinstance(n, ast.Name)}
            for name in sorted(names - found.keys()):
                bound = [s for s in self._tree.body if name in _bound(s)]
                found[name] = " ".join(_binding(statement, name) for statement in bound)
                waiting += bound
        return [f"{name}: {text}" for name, text in sorted(found.items()) if text]


def _closure(function: FunctionType) -> dict[str, object]:
    """Variables of the enclosing function, such as that of a loop, with their values."""
    cells = function.__closure__ or ()
    return {
        name: _content(cell)
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
    }


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _first_line(node: _Function) -> int:
    decorators = getattr(node, "decorator_list", [])
    lines: list[int] = [node.lineno, *(decorator.lineno for decorator in decorators)]
    return min(lines)


def _holds(node: _Function, places: list[tuple[int, int]]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return all((node.lineno, node.col_offset) <= place <= end for place in places)


def _places(code: CodeType) -> list[tuple[int, int]]:
    """Line and column of everything that the code does; where it is entered has no column."""
    return [(line, column) for line, _, column, _ in code.co_positions() if line and column]


def _size(nodes: list[_Function]) -> tuple[int, int]:
    (node,) = nodes
    lines = (node.end_lineno or node.lineno) - node.lineno
    return lines, (node.end_col_offset or 0) - node.col_offset


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, _DOCUMENTED):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {_alias_name(alias) for alias in statement.names}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }


def _alias_name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _binding(statement: ast.stmt, name: str) -> str:
    """One statement; of an import only this name, for its neighbours are sorted and split."""
    if not isinstance(statement, ast.Import | ast.ImportFrom):
        return _dump(statement)
    module = getattr(statement, "module", None) or ""
    names = [alias.name for alias in statement.names if _alias_name(alias) == name]
    return f"import {module} {' '.join(names)}"


def _dump(node: object) -> str:
    """A syntax tree as text; equal for equal code in every version of Python."""
    if isinstance(node, ast.Constant):
        value = node.value
        shown = value.hex() if isinstance(value, float) else ascii(value)
        return f"{type(value).__name__} {shown}"
    if isinstance(node, ast.AST):
        fields = [f"{name}={_dump(value)}" for name, value in _fields(node)]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    return ascii(node)


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            value = value[1:]
        if isinstance(node, ast.JoinedStr):
            # Python 3.12 ends a format with an empty text.
            value = [part for part in node.values if getattr(part, "value", None) != ""]
        if name not in _IGNORED and value is not None and value != []:
            yield name, value
