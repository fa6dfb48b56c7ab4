"""A script taken apart, so that its pieces can stand in another script.

    imports   what it imports, but for the public names of ckmigrate
    globals   other statements of the module: constants, functions that it hands to compute()
    pieces    the statements of upgrade(ck), each with the comments above it

Statements are carried as they were written. Only `ck.init(…, value=init.normal())` gets a `key=`:
random values depend on the revision of the script, and must stay what they were.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ckmigrate.revisions.script import Script

__all__ = ["Parts", "Piece", "bound_names", "take_apart"]

_RESERVED = {"revision", "revises", "replaces", "pruned", "release", "api", "irreversible"}
_FUNCTIONS = {"upgrade", "downgrade", "verify"}
_CONSTANT = {"zeros", "ones", "full", "eye"}
_INDENT = 4
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Piece:
    """Statements of an upgrade(ck).

    text    indented by four blanks, ending in a newline
    origin  the name of the script that they come from, without `.py`
    call    the one call that the piece is, where it is one that names nothing but modules and
            literals; such pieces may be merged with others
    """

    text: str
    origin: str
    call: ast.Call | None = None

    @property
    def operation(self) -> str:
        """Such as "rename"; "" where it is no single call."""
        function = self.call.func if self.call else None
        return function.attr if isinstance(function, ast.Attribute) else ""


@dataclass(frozen=True, slots=True)
class Parts:
    """One script taken apart.

    argument  what upgrade() calls its checkpoint
    public    names that it imports from ckmigrate, with the names that it gives them
    is_plain  upgrade() is calls on `ck` and nothing else, so that it needs no function of its own
    local     names that upgrade() binds
    uses      every name that the script reads
    """

    script: Script
    argument: str
    annotated: bool
    public: tuple[tuple[str, str | None], ...]
    imports: tuple[ast.stmt, ...]
    globals: tuple[tuple[ast.stmt, str], ...]
    pieces: tuple[Piece, ...]
    is_plain: bool
    local: frozenset[str]
    uses: frozenset[str]


def take_apart(script: Script) -> Parts:
    """The parts of a script; its text is valid Python, or there would be no Script."""
    text = _with_keys(script.source, script.id)
    tree = ast.parse(text)
    lines = text.split("\n")
    upgrade = next(s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "upgrade")
    argument = (upgrade.args.posonlyargs + upgrade.args.args)[0]
    module = [s for s in tree.body if not _is_reserved(s)]
    imports = [s for s in module if isinstance(s, ast.Import | ast.ImportFrom)]
    body = [s for s in upgrade.body if not _is_idle(s)]
    is_plain = argument.arg == "ck" and all(_plain_call(s) for s in body)
    origin = script.path.stem
    return Parts(
        script=script,
        argument=argument.arg,
        annotated=argument.annotation is not None,
        public=tuple((a.name, a.asname) for s in imports if _is_public(s) for a in s.names),
        imports=tuple(s for s in imports if not _is_public(s)),
        globals=tuple((s, _segment(s, tree.body, lines, 0)) for s in module if s not in imports),
        pieces=tuple(
            Piece(_segment(s, upgrade.body, lines, _INDENT), origin, _plain_call(s)) for s in body
        ),
        is_plain=is_plain,
        local=frozenset(bound_names(upgrade.body)) | {argument.arg},
        uses=frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)),
    )


def bound_names(statements: Sequence[ast.stmt]) -> set[str]:
    """The names that statements bind in their own scope."""
    text = ast.unparse(ast.Module(list(statements), []))
    # As the body of a function, because `return` may stand among them.
    lines = "".join(f"    {line}\n" for line in text.split("\n")) or "    pass\n"
    inside = symtable.symtable(f"def f():\n{lines}", "", "exec").get_children()
    table = next(child for child in inside if child.get_name() == "f")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}


def _is_reserved(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=targets):
            return all(isinstance(t, ast.Name) and t.id in _RESERVED for t in targets)
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name in _RESERVED
        case ast.FunctionDef(name=name):
            return name in _FUNCTIONS
        case ast.ImportFrom(module="__future__"):
            return True
    return _is_idle(statement)


def _is_idle(statement: ast.stmt) -> bool:
    """A docstring, or `pass`."""
    text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return text or isinstance(statement, ast.Pass)


def _is_public(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "ckmigrate"


def _plain_call(statement: ast.stmt) -> ast.Call | None:
    """The call of `ck.rename(…)` or `ck.meta.set(…)`, where the statement is nothing else."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    owner = function.value if isinstance(function, ast.Attribute) else None
    if isinstance(owner, ast.Attribute):
        owner = owner.value
    is_plain = isinstance(owner, ast.Name) and owner.id == "ck"
    odd = ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom
    if not is_plain or any(isinstance(node, odd) for node in ast.walk(statement)):
        return None
    return call if isinstance(call, ast.Call) and not _reads(call) else None


def _reads(call: ast.Call) -> bool:
    """Whether an argument looks at the checkpoint: `ck["a"].shape`, `ck.params["heads"]`."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(isinstance(n, ast.Name) and n.id == "ck" for a in given for n in ast.walk(a))


def _segment(
    statement: ast.stmt, siblings: Sequence[ast.stmt], lines: Sequence[str], indent: int
) -> str:
    """The lines of a statement with the comments above it; from its syntax where it shares lines
    with others or is indented in another way."""
    place = next(i for i, other in enumerate(siblings) if other is statement)
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    last = statement.end_lineno or first
    before = siblings[place - 1].end_lineno or 0 if place else first - 1
    after = siblings[place + 1].lineno if place + 1 < len(siblings) else last + 1
    own_lines = (
        before < first and last < after and lines[first - 1][:indent].isspace() == bool(indent)
    )
    if not own_lines or statement.col_offset != indent:
        return "".join(f"{' ' * indent}{line}\n" for line in ast.unparse(statement).split("\n"))
    comments = [line for line in lines[before : first - 1] if line.strip().startswith("#")]
    return "".join(f"{line.rstrip()}\n" for line in [*comments, *lines[first - 1 : last]])


def _with_keys(text: str, revision: str) -> str:
    """The text, with a `key=` in every call that draws random values under this revision."""
    data = text.encode()
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for call in sorted(_drawing(ast.parse(text)), key=lambda c: (-c.end_lineno, -c.end_col_offset)):
        end = starts[call.end_lineno - 1] + call.end_col_offset - 1
        before, closing = data[:end].rstrip(), data[end:]
        if before.endswith(b","):  # one argument a line
            last = starts[max(k.value.end_lineno or 0 for k in call.keywords) - 1]
            blanks = len(data[last:end]) - len(data[last:end].lstrip(b" "))
            new = b"\n" + b" " * blanks + f'key="{revision}",'.encode()
            data = before + new + data[len(before) : end] + closing
        else:
            new = before + f', key="{revision}"'.encode() + closing
            data = new if _fits(new, end) else _spread(data, call, starts, revision)
    return data.decode()


def _fits(data: bytes, place: int) -> bool:
    """Whether the line at a place is no longer than lines are."""
    first, last = data.rfind(b"\n", 0, place) + 1, data.find(b"\n", place)
    return len(data[first:last].decode()) <= _WIDTH


def _spread(data: bytes, call: _Call, starts: Sequence[int], revision: str) -> bytes:
    """One argument a line, with the key as the last one."""

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    row = data[starts[call.lineno - 1] : at(call.lineno, call.col_offset)]
    margin = b"\n" + row[: len(row) - len(row.lstrip(b" "))]
    opening = data.index(b"(", at(call.func.end_lineno or 0, call.func.end_col_offset or 0))
    values: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    given = [
        data[at(v.lineno, v.col_offset) : at(v.end_lineno or 0, v.end_col_offset or 0)]
        for v in values
    ]
    lines = b"".join(
        margin + b"    " + one + b"," for one in [*given, f'key="{revision}"'.encode()]
    )
    end = at(call.end_lineno, call.end_col_offset)
    return data[: opening + 1] + lines + margin + data[end - 1 :]


class _Call(ast.Call):
    """A call with a place, for type checkers."""

    end_lineno: int
    end_col_offset: int


def _drawing(tree: ast.Module) -> Iterator[_Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="init")) if (
                owner != "init"
            ):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                if "key" not in given and "value" in given and not _is_constant(given["value"]):
                    yield node  # type: ignore[misc]


def _is_constant(value: ast.expr) -> bool:
    match value:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="init"), attr=kind)):
            return kind in _CONSTANT
    return False


def names_of(imports: Iterable[ast.stmt]) -> set[str]:
    """The names that import statements bind."""
    return bound_names(list(imports))
