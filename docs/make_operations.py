"""Write docs/operations.md from the signatures and docstrings of what a script may call.

python docs/make_operations.py
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, ModuleType

from ckmigrate import init, symbolic
from ckmigrate.checkpoint import Checkpoint, RecordedMeta
from ckmigrate.operations import (
    cast,
    compute,
    copy,
    gather,
    rearrange,
    rename,
    resize,
    split,
    stack,
)
from ckmigrate.operations import init as init_operation
from ckmigrate.symbolic import SymbolicTensor

__all__ = ["PAGE", "ROOMS", "UNDOCUMENTED", "public", "render"]

PAGE = Path(__file__).with_name("operations.md")

ROOMS: dict[str, ModuleType] = {
    "rename": rename,
    "split": split,
    "concat": split,
    "stack": stack,
    "unstack": stack,
    "reshape": rearrange,
    "squeeze": rearrange,
    "unsqueeze": rearrange,
    "flatten": rearrange,
    "permute": rearrange,
    "transpose": rearrange,
    "rearrange": rearrange,
    "slice": resize,
    "resize": resize,
    "init": init_operation,
    "drop": init_operation,
    "copy": copy,
    "tie": copy,
    "untie": copy,
    "merge_equal": copy,
    "gather": gather,
    "cast": cast,
    "compute": compute,
}
"""The module of each operation that has one."""

_NEAR = 0.75
_READING = ("names", "schema", "ties", "params", "meta", "entries", "match")
_EXPRESSIONS = ("take", "todo")
UNDOCUMENTED = frozenset({"recorder", "entries"})
"""Public names of Checkpoint that are not for scripts."""

HEAD = """\
# Operations

Everything that `upgrade(ck)` can call. [Writing a migration](migrations.md) explains patterns, the
rules that every operation keeps, and the way back of each.

A pattern that matches nothing is an error unless `optional=True`. Sizes are numbers of elements;
dimensions count from 0, or from the end when negative. A `ShapeLike` is a tuple of sizes, or a
function that gets the tensor as it is now and gives one; a `Number` is a Python number or bool.

This page is made by `python docs/make_operations.py` from the code.
"""


def public(owner: type) -> tuple[str, ...]:
    """The public methods and properties of a class, in the order of its source."""
    kinds = (property, FunctionType)
    return tuple(n for n, v in vars(owner).items() if isinstance(v, kinds) and n[0] != "_")


def render() -> str:
    """The page: operations, reading, expressions, metadata, initialisers."""
    reading = [n for n in _READING if n not in UNDOCUMENTED]
    return "\n".join(
        [
            HEAD,
            _section("Changing entries", (_operation(name) for name in ROOMS)),
            _section("Reading", (_member("ck", Checkpoint, name) for name in reading)),
            _section("Expressions", _expressions()),
            _section(
                "Metadata", (_member("ck.meta", RecordedMeta, n) for n in public(RecordedMeta))
            ),
            _section("Initialisers", map(_initialiser, _initialisers())),
        ]
    )


def _section(title: str, items: Iterable[str]) -> str:
    return f"## {title}\n\n" + "\n".join(items)


def _operation(name: str) -> str:
    text = _member("ck", Checkpoint, name)
    more = _doc(getattr(ROOMS[name], f"{name}_" if name == "slice" else name))
    return text if _alike(more, _doc(vars(Checkpoint)[name])) else f"{text}\n{more}\n"


def _alike(more: str, said: str) -> bool:
    return difflib.SequenceMatcher(None, more, said).ratio() > _NEAR


def _expressions() -> Iterable[str]:
    yield from (_member("ck", Checkpoint, name) for name in _EXPRESSIONS)
    yield f"### `ck[name]`\n\n{_doc(SymbolicTensor)}\n"
    yield f"### `ck[name] = tensor`\n\n{_doc(Checkpoint.__setitem__)}\n"
    yield from (_member("tensor", SymbolicTensor, name) for name in public(SymbolicTensor))
    yield f"### `tensor[…]`\n\n{_doc(SymbolicTensor.__getitem__)}\n"
    yield from (_function("", getattr(symbolic, name)) for name in ("concat", "stack"))


def _member(prefix: str, owner: type, name: str) -> str:
    found = vars(owner)[name]
    if isinstance(found, property):
        return f"### `{prefix}.{name}`\n\n{_doc(found) or _returned(found)}\n"
    return _function(f"{prefix}.", found)


def _function(prefix: str, function: Callable[..., object]) -> str:
    signature = f"{prefix}{function.__name__}{_signature(function)}"
    code = f"```text\n{signature}\n```"
    return f"### `{prefix}{function.__name__}`\n\n{code}\n\n{_doc(function)}\n"


def _initialisers() -> list[str]:
    return [name for name in init.__all__ if name != "Initialiser"]


def _initialiser(name: str) -> str:
    return _function("init.", getattr(init, name))


def _signature(function: Callable[..., object]) -> str:
    found = inspect.signature(function)
    kept = [p for p in found.parameters.values() if p.name != "self"]
    one_line = str(found.replace(parameters=kept, return_annotation=found.empty)).replace("'", "")
    if len(one_line) < 70:
        return one_line
    return "(\n" + "".join(f"    {part},\n" for part in _parts(one_line[1:-1])) + ")"


def _parts(arguments: str) -> list[str]:
    """The arguments, cut at the commas that are in no bracket."""
    parts, depth = [""], 0
    for char in arguments:
        depth += (char in "[(") - (char in "])")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _returned(found: property) -> str:
    given = inspect.signature(found.fget).return_annotation if found.fget else ""
    return f"Gives `{given}`."


def _doc(thing: object) -> str:
    """The docstring, one line for each paragraph, with calls and brackets set as code."""
    text = inspect.getdoc(thing) or ""
    paragraphs = [re.sub(r"\s+", " ", part) for part in text.split("\n\n")]
    return "\n\n".join(
        re.sub(r"(?<!`)(\b\w+\[[^\]]*\]|\bCKM\d{3}\b)(?!`)", r"`\1`", p) for p in paragraphs
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
