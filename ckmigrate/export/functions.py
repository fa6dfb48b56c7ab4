"""Functions that scripts hand to compute(), as text that needs no script.

A function of a library is imported. One that a script defines comes with what it uses: statements
of the script's module, and values of the enclosing function that are literals.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckmigrate.errors import MigrationError
from ckmigrate.squash.functions import FunctionNode, function_node
from ckmigrate.squash.parts import bound_names

__all__ = ["Functions"]

_LIBRARIES = ("operator", "math", "torch", "torch.nn.functional", "torch.linalg", "numpy")


@dataclass
class Functions:
    """The functions of a program; `sources` are the texts of scripts by the path of each.

    modules  to import at the top
    texts    definitions, in order
    """

    sources: Mapping[str, str]
    modules: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)
    _kept: list[object] = field(default_factory=list)

    def name(self, function: Callable[..., object]) -> str:
        """The expression that stands for a function; MigrationError CKM515 where there is none."""
        if id(function) not in self._names:
            self._kept.append(function)  # an id is unique only as long as its object is there
            self._names[id(function)] = self._text(function)
        return self._names[id(function)]

    def _text(self, function: Callable[..., object]) -> str:
        if isinstance(function, functools.partial):
            return self._partial(function)
        source = self._source(function)
        if source is None:
            return self._imported(function)
        assert isinstance(function, types.FunctionType)
        node = function_node(function, source)
        if node is None:
            raise _refused(function, "its text cannot be told apart from others on its line")
        return self._defined(function, node, source)

    def _source(self, function: object) -> str | None:
        code = function.__code__ if isinstance(function, types.FunctionType) else None
        return None if code is None else self.sources.get(code.co_filename)

    def _partial(self, function: functools.partial[object]) -> str:
        self.modules.add("functools")
        values = [_literal(function, value) for value in function.args]
        values += [f"{k}={_literal(function, v)}" for k, v in function.keywords.items()]
        return f"functools.partial({', '.join([self.name(function.func), *values])})"

    def _imported(self, function: object) -> str:
        name = getattr(function, "__name__", "")
        homes = [*_LIBRARIES, str(getattr(function, "__module__", "") or "")]
        for home in homes:
            module = sys.modules.get(home)
            if module is not None and getattr(module, name, None) is function:
                if home.partition(".")[0] == "ckmigrate":
                    break
                self.modules.add(home)
                return f"{home}.{name}"
        raise _refused(function, "it is neither of a library nor a plain function of the script")

    def _defined(self, function: types.FunctionType, node: FunctionNode, source: str) -> str:
        """A function that makes the function, so that names of two scripts never meet."""
        lines = [ast.unparse(statement) for statement in self._needed(function, node, source)]
        lines += [self._closed(function, n, v) for n, v in _nonlocals(function).items()]
        name = function.__name__
        if isinstance(node, ast.Lambda):
            name = "function"
            lines.append(f"function = {ast.unparse(node)}")
        else:
            lines.append(ast.unparse(node))
        made = f"{name}_{len(self.texts) + 1}".lstrip("_")
        body = "\n".join(f"    {line}" for text in lines for line in text.split("\n"))
        self.texts.append(
            f"def make_{made}():\n{body}\n    return {name}\n\n\n{made} = make_{made}()"
        )
        return made

    def _needed(
        self, function: types.FunctionType, node: FunctionNode, source: str
    ) -> list[ast.stmt]:
        """The statements of the module that bind what the function uses, and what they use."""
        module = ast.parse(source).body
        found: list[ast.stmt] = []
        waiting: list[ast.AST] = [node]
        while waiting:
            names = {n.id for n in ast.walk(waiting.pop()) if isinstance(n, ast.Name)}
            for statement in module:
                if statement in found or _is_same(statement, node):
                    continue
                if bound_names([statement]) & names - set(_nonlocals(function)):
                    _require_free(function, statement)
                    found.append(statement)
                    waiting.append(statement)
        return [statement for statement in module if statement in found]

    def _closed(self, function: types.FunctionType, name: str, value: object) -> str:
        if isinstance(value, types.ModuleType):
            return f"import {value.__name__} as {name}"
        if callable(value):
            return f"{name} = {self.name(value)}"
        return f"{name} = {_literal(function, value)}"


def _is_same(statement: ast.stmt, node: FunctionNode) -> bool:
    return (statement.lineno, ast.dump(statement)) == (node.lineno, ast.dump(node))


def _nonlocals(function: types.FunctionType) -> Mapping[str, object]:
    return inspect.getclosurevars(function).nonlocals


def _literal(function: object, value: object) -> str:
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise _refused(function, f"it holds {text[:60]}, which no text stands for")


def _require_free(function: object, statement: ast.stmt) -> None:
    module = statement.module if isinstance(statement, ast.ImportFrom) else None
    names = [a.name for a in statement.names] if isinstance(statement, ast.Import) else []
    homes = [module or "", *names]
    if any(home.partition(".")[0] == "ckmigrate" for home in homes):
        raise _refused(function, "it uses ckmigrate, which the program must do without")


def _refused(function: object, why: str) -> MigrationError:
    name = getattr(function, "__name__", type(function).__name__)
    return MigrationError(
        "CKM515",
        f"the function {name} cannot be exported",
        why=why,
        fix="Define it in the script with what it needs, or export a stretch without it.",
    )
