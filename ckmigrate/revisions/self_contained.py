"""What a script needs from outside, found in its text: live code, and files.

A migration must still run when the code beside it has moved on, and do the same wherever it runs.
The search is by name, so it can be fooled; it is for warnings.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["OutsideUse", "outside_uses"]

_ALLOWED = sys.stdlib_module_names | {"ckmigrate", "torch", "numpy"}
_READERS = {
    "open": frozenset({"", "io", "gzip", "bz2", "lzma", "codecs", "os"}),
    "load": frozenset({"torch", "numpy", "np", "json", "pickle", "tomllib"}),
    "loadtxt": frozenset({"numpy", "np"}),
    "fromfile": frozenset({"numpy", "np", "torch"}),
}
_PATH_READERS = frozenset({"read_text", "read_bytes"})
_IMPORTERS = frozenset({"__import__", "import_module", "exec", "eval", "run_path"})


@dataclass(frozen=True, slots=True)
class OutsideUse:
    """One use, such as "imports mypkg.model" or "reads a file: open(…)", and its line."""

    line: int
    what: str


def outside_uses(source: str) -> tuple[OutsideUse, ...]:
    """Every use in a script, in the order of the lines; the text is valid Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    found = {(node.lineno, what) for node, what in _found(tree)}
    return tuple(OutsideUse(line, what) for line, what in sorted(found))


def _found(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node, f"imports {name}") for name in _imported(node))
        elif isinstance(node, ast.Name) and node.id == "__file__":
            yield node, "uses __file__, the place of the script"
        elif isinstance(node, ast.Call):
            told = _told(node)
            if told is not None:
                yield node, told


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.level:
        return ["." * node.level + (node.module or "")]
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return [name for name in names if name.partition(".")[0] not in _ALLOWED]


def _told(call: ast.Call) -> str | None:
    function = call.func
    owner, name = "", getattr(function, "id", "")
    if isinstance(function, ast.Attribute):
        owner, name = getattr(function.value, "id", "?"), function.attr
    shown = f"{owner}.{name}(…)" if owner not in ("", "?") else f"{name}(…)"
    if name in _IMPORTERS and owner in ("", "importlib", "runpy"):
        return f"runs code that it looks up: {shown}"
    if name in _PATH_READERS or owner in _READERS.get(name, ()):
        return f"reads a file: {shown}"
    return None
