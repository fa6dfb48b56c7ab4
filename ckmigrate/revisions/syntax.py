"""What the syntax tree of a script declares: the reserved names, and nothing of their meaning.

`parse_declared` returns the literals (`revision = "…"`) as values and checks the form of the
functions. A reserved name is bound exactly once, at the top level, by a plain assignment of a
constant or by a plain `def`: whatever reads the file, a person or a tool, sees the same value.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ckmigrate.errors import HistoryError

__all__ = ["API", "Declared", "parse_declared", "place", "read_bytes", "refuse"]

API = 1
"""The newest script interface that this version understands."""

_LITERALS = (
    *("revision", "revises", "formerly", "replaces", "pruned"),
    *("release", "api", "irreversible"),
)
_ARGUMENTS = {"upgrade": ("ck",), "downgrade": ("ck",), "verify": ("old", "new")}
_ALLOWED_IMPORTS = sys.stdlib_module_names | {"ckmigrate", "torch", "numpy"}
_CONFLICT_MARKERS = ("<<<<<<< ", "=======", ">>>>>>> ", "||||||| ")
_NEW_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


@dataclass(frozen=True, slots=True)
class Declared:
    """A script taken apart.

    literals   the reserved constants that are there, by name; revision, revises and api always are
    lines      the line of each reserved name
    functions  which of upgrade, downgrade and verify are defined; upgrade always is
    """

    source: str
    docstring: str
    literals: Mapping[str, Any]
    lines: Mapping[str, int]
    functions: frozenset[str]
    todo_lines: tuple[int, ...]
    foreign_imports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Binding:
    """A name bound at module level; `node` is None where it is no plain assignment or `def`."""

    name: str
    line: int
    node: ast.expr | ast.FunctionDef | None


def read_bytes(path: Path) -> bytes:
    """The bytes of a script; HistoryError CKM301 where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        what, why = f"cannot read the script {path.name}", error.strerror or str(error)
        refuse("CKM301", what, path, why=why, fix="Make the file readable, or remove it.")


def parse_declared(data: bytes, path: Path) -> Declared:
    """Take the bytes of one script apart without running it; `path` is for errors.

    Raises HistoryError CKM301 (no text), CKM302 (syntax), CKM303 (missing literal), CKM304
    (bound twice, or not a literal), CKM306 (newer api), CKM307 (functions).
    """
    source = _decoded(data, path)
    tree = _parse(source, path)
    bindings = tuple(_bindings(tree))
    _check_api(bindings, path)
    bound = _reserved(bindings, path)
    _check_functions(bound, path)
    return Declared(
        source=source,
        docstring=ast.get_docstring(tree, clean=False) or "",
        literals={name: _literal(bound[name], path) for name in _LITERALS if name in bound},
        lines={name: binding.line for name, binding in bound.items()},
        functions=frozenset(bound) & frozenset(_ARGUMENTS),
        todo_lines=_todo_lines(tree),
        foreign_imports=_foreign_imports(tree),
    )


def place(path: Path, line: int | None) -> str:
    """How errors name a spot in a file: `migrations/0004_split.py, line 12`."""
    return f"{path}, line {line}" if line else str(path)


def refuse(
    code: str, what: str, path: Path, line: int | None = None, *, why: str, fix: str
) -> NoReturn:
    """Raise HistoryError about one file."""
    raise HistoryError(code, what, where=place(path, line), why=why, fix=fix)


def _decoded(data: bytes, path: Path) -> str:
    try:
        return importlib.util.decode_source(data)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        what = f"the script {path.name} is not text in its declared encoding"
        refuse("CKM301", what, path, why=str(error), fix="Save the file as UTF-8.")


def _parse(source: str, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, str(path))
            # Some errors, such as a `return` outside a function, are found only here.
            compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        why = (error.msg if isinstance(error, SyntaxError) else str(error)) or "too deeply nested"
        what = f"the script {path.name} is not valid Python"
        fix = "Correct the script."
        if line and source.split("\n")[line - 1].startswith(_CONFLICT_MARKERS):
            why, fix = "git left its conflict markers in it", "Resolve the conflict in the script."
        refuse("CKM302", what, path, line, why=why, fix=fix)
    return tree


def _check_api(bindings: tuple[_Binding, ...], path: Path) -> None:
    """Before everything else: in a newer interface all the other rules may differ."""
    for name, line, node in ((b.name, b.line, b.node) for b in bindings):
        value = node.value if isinstance(node, ast.Constant) else None
        if name == "api" and type(value) is int and value > API:
            what = f"{path.name} is written for api {value}; this ckmigrate knows api {API}"
            why, fix = "the script may mean something else", "Install a newer ckmigrate."
            refuse("CKM306", what, path, line, why=why, fix=fix)


def _reserved(every: tuple[_Binding, ...], path: Path) -> dict[str, _Binding]:
    """The one binding of each name that means something to us; the required ones are there."""
    bound: dict[str, _Binding] = {}
    for binding in every:
        if binding.name not in _LITERALS and binding.name not in _ARGUMENTS:
            continue
        first = bound.setdefault(binding.name, binding)
        if first is not binding:
            what = f"'{binding.name}' is bound twice in {path.name}"
            why = f"it is bound on line {first.line} and again on line {binding.line}"
            refuse("CKM304", what, path, binding.line, why=why, fix="Keep one of the two.")
    for name in ("revision", "revises", "api"):
        if name not in bound:
            _refuse_missing(name, [other for other in every if other.name not in bound], path)
    return bound


def _refuse_missing(name: str, others: list[_Binding], path: Path) -> NoReturn:
    examples = {"revision": '"7c1e9a04f2"', "revises": "None", "api": str(API)}
    import difflib

    close = difflib.get_close_matches(name, [binding.name for binding in others], 1, 0.75)
    line = next((binding.line for binding in others if binding.name in close), None)
    refuse(
        "CKM303",
        f"the script {path.name} has no '{name}'",
        path,
        line,
        why=f"'{close[0]}' is near, but is not it" if close else "every script declares it",
        fix=f"Write `{name} = {examples[name]}` (with the value that fits) at the top level, or "
        "move the file out of the migrations folder if it is no migration.",
    )


def _bindings(tree: ast.Module) -> Iterator[_Binding]:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=targets, value=value) if all(
                isinstance(target, ast.Name) for target in targets
            ):
                for target in targets:
                    assert isinstance(target, ast.Name)
                    yield _Binding(target.id, target.lineno, value)
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                if value is not None:
                    yield _Binding(name, statement.lineno, value)
            case ast.FunctionDef(name=name):
                yield _Binding(name, statement.lineno, statement)
            case _:
                yield from _other_bindings(statement)


def _other_bindings(statement: ast.stmt) -> Iterator[_Binding]:
    """Names that a statement binds in another way: import, loop, branch, with, del, class …"""
    for node in _same_scope(statement):
        name = _bound_name(node)
        if name is not None:
            yield _Binding(name, getattr(node, "lineno", statement.lineno), None)


def _bound_name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return name
        case ast.alias(name=name, asname=alias):
            return alias or name.partition(".")[0]
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name
        case ast.MatchMapping(rest=name):
            return name
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
    return None


def _same_scope(root: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, without the insides of functions, classes, comprehensions."""
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        yield node
        if not isinstance(node, _NEW_SCOPES):
            waiting.extend(ast.iter_child_nodes(node))


def _check_functions(bound: Mapping[str, _Binding], path: Path) -> None:
    if "upgrade" not in bound:
        fix = "Add `def upgrade(ck):`; with nothing to do, its body is a docstring that says why."
        what = f"the script {path.name} has no upgrade(ck)"
        refuse("CKM307", what, path, why="every script says how to go up", fix=fix)
    for name, arguments in _ARGUMENTS.items():
        if name in bound:
            _check_function(bound[name], arguments, path)


def _check_function(binding: _Binding, arguments: tuple[str, ...], path: Path) -> None:
    wanted = f"{binding.name}({', '.join(arguments)})"
    node = binding.node
    if not isinstance(node, ast.FunctionDef):
        why = "it is imported, assigned, asynchronous, a class, or defined under a condition"
    elif not _accepts(node.args, len(arguments)):
        why = f"it is called as {wanted} and cannot take {len(arguments)} positional argument(s)"
    elif _yields(node):
        why = "it contains yield: calling it would run nothing"
    else:
        return
    what = f"'{binding.name}' of {path.name} must be a plain function {wanted}"
    fix = f"Write `def {wanted}:` at the top level."
    refuse("CKM307", what, path, binding.line, why=why, fix=fix)


def _accepts(arguments: ast.arguments, count: int) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    keyword_needed = any(default is None for default in arguments.kw_defaults)
    enough = positional >= count or arguments.vararg is not None
    return required <= count and enough and not keyword_needed


def _yields(function: ast.FunctionDef) -> bool:
    """Whether the function itself, not one inside it, is a generator."""
    nodes = (node for statement in function.body for node in _same_scope(statement))
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes)


def _literal(binding: _Binding, path: Path) -> Any:
    try:
        if isinstance(binding.node, ast.expr):
            return ast.literal_eval(binding.node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        pass
    what = f"'{binding.name}' of {path.name} is not a literal"
    why = "it is read without running the script"
    fix = f"Write one plain assignment of a constant to '{binding.name}' at the top level."
    refuse("CKM304", what, path, binding.line, why=why, fix=fix)


def _todo_lines(tree: ast.Module) -> tuple[int, ...]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    todos = (c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "todo")
    return tuple(sorted({call.lineno for call in todos}))


def _foreign_imports(tree: ast.Module) -> tuple[str, ...]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            found.add("." * node.level + module)
    return tuple(sorted(found - _ALLOWED_IMPORTS))
