"""Write docs/errors.md from the places in ckmigrate that raise errors.

    python docs/make_errors.py

The sources are read with ast, not imported. A message is printed with "…" for what it fills in.
Where a function is handed its message, the messages are those of its callers in the same file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CODE", "MEANINGS", "PACKAGE", "PAGE", "Raised", "messages", "raised", "render"]

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

MEANINGS = {
    "CKM200": "the command line cannot be read",
    "CKM201": "there is no project",
    "CKM203": "a setting of the configuration is wrong",
    "CKM204": "a parameter is wrong",
    "CKM206": "it is not clear which model is meant",
    "CKM207": "the configuration cannot be read",
    "CKM209": "what a new script is to say cannot be said",
    "CKM230": "it is not clear where the result goes",
    "CKM232": "the output is not one name for one checkpoint",
    "CKM233": "output options do not go together",
    "CKM244": "it is not clear what a rebase is to move, and to where",
    "CKM245": "the stretch to squash has no two ends",
    "CKM246": "there is no base snapshot to go by",
    "CKM250": "a wished rename fits nothing",
    "CKM252": "a map of wishes is wrong",
    "CKM253": "the editor did not work",
    "CKM254": "an edited draft is wrong",
    "CKM255": "there is no head to draft from",
    "CKM256": "options of a draft do not go together",
    "CKM258": "there are no two heads to merge",
    "CKM273": "the state of these optimizers is not in the file",
    "CKM301": "a script cannot be read",
    "CKM304": "a literal of a script is no literal",
    "CKM305": "a literal of a script has a wrong value",
    "CKM307": "a function of a script is missing, or no plain function",
    "CKM318": "a stretch cannot be squashed",
    "CKM336": "a merge cannot be proved",
    "CKM402": "several revisions fit",
    "CKM414": "names and shapes do not tell the revision",
    "CKM501": "a pattern cannot be read",
    "CKM502": "a regular expression takes too long, or might",
    "CKM505": "a pattern matches nothing",
    "CKM510": "a script cannot be imported as it declares",
    "CKM511": "there is no way from here to there",
    "CKM514": "there is no schema to prove a squash on",
    "CKM520": "a tensor does not have these dimensions",
    "CKM521": "a part lies outside of its tensor, or parts do not add up to it",
    "CKM522": "one name for two",
    "CKM523": "two tensors do not go together",
    "CKM524": "a shape cannot be had",
    "CKM525": "a rearrangement is wrong",
    "CKM526": "a function does not give the outputs",
    "CKM527": "a value or a dtype cannot be had",
    "CKM532": "an argument of an operation is wrong",
    "CKM540": "elements are too narrow for this",
    "CKM543": "torch does not have an operation for this dtype",
    "CKM564": "what becomes one tensor has several dtypes",
    "CKM565": "an optimizer counts other parameters than there are",
    "CKM566": "the parameters of an optimizer cannot be told apart",
    "CKM570": "what an optimizer keeps of a tensor cannot be made",
    "CKM571": "there is no such metadata",
    "CKM574": "metadata cannot hold this value",
    "CKM575": "metadata cannot be renamed so",
    "CKM577": "the groups of an optimizer are not certain",
    "CKM611": "torch refuses the result",
    "CKM621": "a checkpoint is not what it was said to be",
    "CKM635": "up and down do not give the checkpoint back",
    "CKM700": "a safetensors file is too short",
    "CKM701": "the header of a safetensors file cannot be read",
    "CKM702": "the metadata of a safetensors file are wrong",
    "CKM703": "a tensor of a safetensors file is described wrongly",
    "CKM704": "the data of a safetensors file are not where its header says",
    "CKM705": "safetensors cannot hold this",
    "CKM706": "there is no such file",
    "CKM707": "a path cannot be read as a checkpoint",
    "CKM708": "a file is not a checkpoint",
    "CKM713": "a torch file holds what is not supported",
    "CKM715": "a torch file is damaged, or too new",
    "CKM716": "the tag in a torch file is damaged",
    "CKM717": "a torch file from before 1.6 is damaged, or too old",
    "CKM735": "two entries have one name",
    "CKM750": "reading or writing failed",
    "CKM752": "there is not enough space",
    "CKM753": "the checkpoint changed meanwhile",
    "CKM755": "the place cannot be written to",
    "CKM758": "the result is written, and something after it failed",
    "CKM761": "the index of a folder of shards is wrong",
    "CKM766": "the shards of a folder do not go together",
    "CKM775": "a change in place could be neither finished nor taken back",
    "CKM777": "the file has other names, so it is not changed in place",
    "CKM784": "the parts of a distributed checkpoint are not where it says",
    "CKM785": "a distributed checkpoint holds what is not supported",
    "CKM791": "the answer cannot be written",
}
"""What the messages of a code have in common, where it has several: a code means one thing."""

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

Below are the messages of every code; `…` stands for names and numbers. A code means one thing:
where it has several messages, what they have in common comes first. What to do is in the message
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
            yield from _handed(what.id, call, function, tree)


def _handed(name: str, call: ast.AST, function: ast.FunctionDef, tree: ast.Module) -> Iterator[str]:
    """The texts that callers in this file give for a parameter, or that are assigned to it."""
    names = [a.arg for a in function.args.args]
    for node in _beside(call, name, function) or list(ast.walk(function)):
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


def _beside(call: ast.AST, name: str, function: ast.FunctionDef) -> list[ast.stmt]:
    """The last assignment to a name that stands before a call in the same block."""
    for node in ast.walk(function):
        for block in (getattr(node, part, None) for part in ("body", "orelse")):
            if not isinstance(block, list):
                continue
            at = next((n for n, one in enumerate(block) if call in _header(one)), None)
            before = block[: at or 0]
            found = [s for s in before if isinstance(s, ast.Assign) and [*_assigned(s, name)]]
            if found:
                return found[-1:]
    return []


def _header(statement: ast.stmt) -> list[ast.AST]:
    """What a statement holds itself, without the blocks in it."""
    return [] if hasattr(statement, "body") else list(ast.walk(statement))


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
    elif isinstance(node, ast.BinOp):
        begin = next(_texts(node.left), "…")
        yield f"{begin}{next(_texts(node.right), '…')}"


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


def messages(code: str, places: Iterable[Raised]) -> tuple[str, ...]:
    """The different messages of a code, as they are read off the source."""
    found = (p.what for p in places if p.code == code and p.what and p.what.strip("… "))
    return tuple(dict.fromkeys(re.sub(r"\s+", " ", text).strip() for text in found))


def _row(code: str, places: list[Raised]) -> str:
    texts = [_cell(text) for text in messages(code, places)] or [_TOLD[code]]
    more = ["and similar"] if len(texts) > _SHOWN else []
    meaning = [f"*{MEANINGS[code]}*"] if code in MEANINGS else []
    return f"| `{code}` | {'<br>'.join([*meaning, *texts[:_SHOWN], *more])} |"


def _cell(text: str) -> str:
    return re.sub(r"([\\|*_<>\[\]`{}$])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
