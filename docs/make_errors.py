"""Write docs/errors.md from the places in ckmigrate that raise errors.

    python docs/make_errors.py

The sources are read with ast, not imported. A message is printed with "…" for what it fills in.
Where a function is handed its message, the messages are those of its callers in the same file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CODE", "PACKAGE", "PAGE", "Raised", "raised", "render"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ckmigrate"
PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"CKM[2-7]\d{2}")
_SHOWN = 6

_FAMILIES = {
    "2": ("UsageError", "The command line or the configuration cannot be used."),
    "3": ("HistoryError", "The migration scripts do not form a valid history."),
    "4": ("IdentifyError", "The revision of a checkpoint is unknown, ambiguous or too new."),
    "5": ("MigrationError", "A migration was refused or failed."),
    "6": ("VerificationError", "The result does not fit the target; nothing was written."),
    "7": ("StorageError", "A file cannot be read, is unsafe, or cannot be written."),
}

_TOLD = {
    "CKM506": "two entries would get the name …",
    "CKM507": "the group … has … but lacks …",
    "CKM709": "… is a web page, a pointer to the file, or something else without the weights",
    "CKM768": "config.json is not a JSON object",
}
"""The messages that are put together elsewhere."""

HEAD = """\
# Errors and their codes

An error says what is wrong, where, why, and what to do next:

```text
error[CKM601]: the result would not fit model 'default' (model:build): 4 differences
```

The code is stable and safe to match on, in the text and under `error.code` with `--json`. Its first
digit is the exit code. Exit code 1 is no error: the answer is no (a checkpoint is behind, two
things differ, a draft is not finished). 130 means that the run was interrupted. In a run over many
checkpoints the exit code is that of the first failure.

Below are the messages of every code; `…` stands for names and numbers. What to do is in the message
itself. If you have a question rather than a code, see the [frequent questions](faq.md).

This page is made by `python docs/make_errors.py` from the source.
"""


@dataclass(frozen=True, slots=True)
class Raised:
    """One place that raises a code, with its message where it can be read there."""

    code: str
    what: str | None
    path: str


def raised() -> tuple[Raised, ...]:
    """Every place of the package that raises an error with a code, by path and line."""
    return tuple(found for path in sorted(PACKAGE.rglob("*.py")) for found in _of_file(path))


def _of_file(path: Path) -> Iterator[Raised]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        for code, beside in _mentions(node):
            texts = [text for value in beside[:1] for text in _messages(value, node, tree)]
            yield from (Raised(code, text, where) for text in texts or [None])


def _mentions(node: ast.AST) -> Iterator[tuple[str, list[ast.expr]]]:
    """The codes that a call, a tuple or a choice names, each with what may be its message."""
    match node:
        case ast.Call(args=args, keywords=keywords):
            values = [*args, *(k.value for k in keywords if k.arg in ("what", "code"))]
        case ast.Tuple(elts=values):
            pass
        case ast.IfExp(body=body, orelse=orelse):
            values = [body, orelse]
        case _:
            return
    for value in values:
        if isinstance(value, ast.Constant) and CODE.fullmatch(str(value.value)):
            yield str(value.value), _sayings(values[values.index(value) + 1 :] + values)


def _sayings(values: list[ast.expr]) -> list[ast.expr]:
    kinds = (ast.JoinedStr, ast.IfExp, ast.Name, ast.Constant)
    return [v for v in values if isinstance(v, kinds) and not CODE.fullmatch(_plain(v))]


def _plain(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _messages(what: ast.expr, call: ast.AST, tree: ast.Module) -> Iterator[str]:
    yield from _texts(what)
    if isinstance(what, ast.Name):
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        for function in [f for f in functions if call in ast.walk(f)][-1:]:
            yield from _handed(what.id, function, tree)


def _handed(name: str, function: ast.FunctionDef, tree: ast.Module) -> Iterator[str]:
    """The texts that callers in this file give for a parameter, or that are assigned to it."""
    names = [a.arg for a in function.args.args]
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for value in _assigned(node, name):
                yield from _texts(value)
    if name not in names:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == function.name:
            at = names.index(name) - (names[0] == "self")
            given = [*node.args[at : at + 1], *(k.value for k in node.keywords if k.arg == name)]
            for value in given:
                yield from _texts(value)


def _assigned(node: ast.Assign, name: str) -> Iterator[ast.expr]:
    for target in node.targets:
        if _is(target, name):
            yield node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=True)
            yield from (value for part, value in pairs if _is(part, name))


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(_part(part) for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _part(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def render() -> str:
    """The page: one table for each class of errors."""
    found = raised()
    parts = [HEAD]
    for digit, (name, meaning) in _FAMILIES.items():
        codes = sorted({r.code for r in found if r.code[3] == digit})
        rows = "\n".join(_row(code, [r for r in found if r.code == code]) for code in codes)
        parts.append(
            f"## Exit code {digit}: {name}\n\n{meaning}\n\n| code | says |\n|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _row(code: str, places: list[Raised]) -> str:
    texts = list(dict.fromkeys(_cell(p.what) for p in places if p.what and p.what.strip("… ")))
    more = ["and similar"] if len(texts) > _SHOWN else []
    if not texts:
        texts = [_TOLD[code]]
    return f"| `{code}` | {'<br>'.join([*texts[:_SHOWN], *more])} |"


def _cell(text: str) -> str:
    tidy = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([\\|*_<>\[\]`{}$])", r"\\\1", tidy)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
