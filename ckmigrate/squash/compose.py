"""The text of a squashed script, put together from the parts of its scripts.

A script whose upgrade() is calls and nothing else gives its calls; one with variables, loops or
conditions becomes a function of its own, which upgrade() calls at its place.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckmigrate.errors import HistoryError
from ckmigrate.revisions.script import API, Script
from ckmigrate.revisions.template import docstring
from ckmigrate.squash.parts import Parts, Piece, bound_names, take_apart

__all__ = ["Draft", "draft"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A squashed script that is being written.

    literals   the reserved constants, as text
    imports    import statements of its scripts
    public     names that they import from ckmigrate, with the names that they give them
    head       constants and functions
    is_annotated  whether functions say what `ck` is
    pieces     what upgrade() does
    """

    message: str
    literals: str
    imports: tuple[ast.stmt, ...]
    public: tuple[tuple[str, str | None], ...]
    head: str
    is_annotated: bool
    pieces: tuple[Piece, ...]
    script: Script

    @property
    def body(self) -> str:
        """The text of upgrade()."""
        lines, origin = [], ""
        for piece in self.pieces:
            lines += [f"    # {piece.origin}\n"] * (piece.origin != origin) + [piece.text]
            origin = piece.origin
        return "".join(lines) or "    pass  # what these scripts did, they undid\n"

    @property
    def text(self) -> str:
        """The whole file."""
        result = " -> None" if self.is_annotated else ""
        argument = "ck: Checkpoint" if self.is_annotated else "ck"
        code = f"{self.head}\n\ndef upgrade({argument}){result}:\n{self.body}".lstrip("\n")
        blocks = [docstring(self.message), self._imports(code), self.literals]
        blanks = "\n\n\n" if code.startswith(("def", "class", "@")) else "\n\n"
        return "\n\n".join(filter(None, blocks)) + blanks + code

    def _imports(self, code: str) -> str:
        """The imports that the code still uses."""
        used = {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}
        kept = [s for s in self.imports if bound_names([s]) & used]
        public = sorted(p for p in set(self.public) if (p[1] or p[0]) in used)
        names = ", ".join(f"{n} as {a}" if a else n for n, a in public)
        ours = f"from ckmigrate import {names}" if names else ""
        lines = "\n".join(sorted({ast.unparse(s) for s in kept}))
        return "\n\n".join(filter(None, [lines, ours]))

    def traceable(self) -> Script:
        """The script that the text is, before it is a file."""
        return replace(self.script, source=self.text)

    def with_pieces(self, pieces: Sequence[Piece]) -> Draft:
        """Another way to do it."""
        return replace(self, pieces=tuple(pieces))


def draft(scripts: Sequence[Script], message: str, path: Path) -> Draft:
    """The scripts one after another, nothing left out.

    HistoryError CKM319 for what one script cannot hold.
    """
    for script in scripts:
        _require_plain(script, scripts)
    parts = [take_apart(script) for script in scripts]
    nested = _conflicting(parts)
    functions = [_function(p, nested=p in nested) for p in parts if p in nested or not p.is_plain]
    hoisted = [p for p in parts if p not in nested]
    texts = {ast.dump(s): text for p in hoisted for s, text in p.globals}
    imports = {ast.dump(s): s for p in hoisted for s in p.imports}
    last, irreversible = scripts[-1], _irreversible(scripts)
    annotated = any(p.annotated for p in parts)
    public = {name for p in hoisted for name in p.public}
    if annotated:
        public.add(("Checkpoint", None))
    replaces = tuple(one for s in scripts for one in (s.replaces or (s.id,)))
    return Draft(
        message=message,
        literals=_literals(scripts, replaces, irreversible),
        imports=tuple(imports.values()),
        public=tuple(public),
        head="".join(f"{text}" for text in texts.values()) + "".join(functions),
        is_annotated=annotated,
        pieces=tuple(x for p in parts for x in _pieces(p, nested=p in nested)),
        script=replace(
            last,
            path=path,
            revises=scripts[0].revises,
            replaces=replaces,
            pruned={},
            irreversible=irreversible,
            has_downgrade=False,
            message=message.split("\n")[0],
        ),
    )


def _require_plain(script: Script, scripts: Sequence[Script]) -> None:
    """Refuse what compares or undoes the states of one script alone."""
    if script.has_todo:
        raise _refused(script, "it is not finished: it has a todo", "Finish it first.")
    if script.has_verify:
        why = "its verify(old, new) compares the states before and after this script alone"
        raise _refused(script, why, "Remove it once it is not needed, or squash around it.")
    if script.has_downgrade and not any(s.irreversible for s in scripts):
        why = "its downgrade(ck) undoes this script alone, and the others are undone by derivation"
        raise _refused(script, why, "Squash up to it, or from behind it.")


def _refused(script: Script, why: str, fix: str) -> HistoryError:
    what = f"{script.path.name} cannot become part of another script"
    return HistoryError("CKM319", what, where=str(script.path), why=why, fix=fix)


def _irreversible(scripts: Sequence[Script]) -> str | None:
    reasons = [f"{s.path.stem}: {s.irreversible}" for s in scripts if s.irreversible]
    return "; ".join(reasons) or None


def _literals(scripts: Sequence[Script], replaces: Sequence[str], irreversible: str | None) -> str:
    names = {s.id: s.path.stem for s in scripts}
    revises = scripts[0].revises
    parents = repr(revises).replace("'", '"')
    listed = "".join(
        f'    "{one}",' + (f"  # {names[one]}" if one in names else "") + "\n" for one in replaces
    )
    lines = [f'revision = "{scripts[-1].id}"', f"revises = {parents}", f"replaces = (\n{listed})"]
    releases = {r: rev for s in scripts for r, rev in s.pruned.get("releases", {}).items()}
    if releases:
        lines.append(f"pruned = {json.dumps({'releases': releases})}")
    if scripts[-1].release is not None:
        lines.append(f'release = "{scripts[-1].release}"')
    lines.append(f"api = {API}")
    if irreversible:
        lines.append(f"irreversible = {_sentences(irreversible)}")
    return "\n".join(lines)


def _sentences(text: str) -> str:
    """A text as a literal, each reason on a line of its own."""
    reasons = text.split("; ")
    lines = [f"{reason}; " for reason in reasons[:-1]] + reasons[-1:]
    quoted = [json.dumps(line, ensure_ascii=False) for line in lines]
    return quoted[0] if len(quoted) == 1 else "(\n" + "".join(f"    {q}\n" for q in quoted) + ")"


def _conflicting(parts: Sequence[Parts]) -> list[Parts]:
    """Scripts whose names mean something else in another one; they keep theirs to themselves."""
    bound = {id(p): _bindings(p) for p in parts}
    meanings: dict[str, set[str]] = {}
    for p in parts:
        for name, meaning in bound[id(p)].items():
            meanings.setdefault(name, set()).add(meaning)
    odd = {name for name, found in meanings.items() if len(found) > 1}
    # A name that one script defines and another takes from Python.
    odd |= {n for p in parts for n in p.uses if n in meanings and n not in bound[id(p)] | _own(p)}
    return [p for p in parts if odd & bound[id(p)].keys()]


def _own(parts: Parts) -> dict[str, str]:
    return dict.fromkeys(parts.local, "")


def _bindings(parts: Parts) -> dict[str, str]:
    """By name that the module binds, what it is bound to."""
    found = {alias or name: f"ckmigrate.{name}" for name, alias in parts.public}
    for statement in (*parts.imports, *(s for s, _ in parts.globals)):
        found.update(dict.fromkeys(bound_names([statement]), ast.dump(statement)))
    return found


def _function_name(parts: Parts) -> str:
    stem = "".join(c if c.isalnum() and c.isascii() else "_" for c in parts.script.path.stem)
    return f"_{stem}"


def _function(parts: Parts, *, nested: bool) -> str:
    kind, result = (": Checkpoint", " -> None") if parts.annotated else ("", "")
    lines = [f"def {_function_name(parts)}({parts.argument}{kind}){result}:\n"]
    if nested:
        lines += _inside(parts)
    lines += [piece.text for piece in parts.pieces]
    return "\n\n" + "".join(lines if len(lines) > 1 else [*lines, "    pass\n"])


def _inside(parts: Parts) -> list[str]:
    """The module of a script, inside of a function."""
    bound = _bindings(parts)
    both = sorted(parts.local & bound.keys())
    stars = [s for s in parts.imports if isinstance(s, ast.ImportFrom) and s.names[0].name == "*"]
    if both or stars:
        why = f"it uses '{both[0]}' for two things" if both else "it imports everything by a *"
        raise _refused(parts.script, f"{why}, and another script uses the same names", "Rename it.")
    names = ", ".join(f"{n} as {a}" if a else n for n, a in parts.public)
    texts = [f"from ckmigrate import {names}"] if names else []
    texts += [ast.unparse(s) for s in (*parts.imports, *(s for s, _ in parts.globals))]
    return [f"    {line}\n" if line else "\n" for text in texts for line in text.split("\n")]


def _pieces(parts: Parts, *, nested: bool) -> tuple[Piece, ...]:
    if parts.is_plain and not nested:
        return parts.pieces
    if not parts.pieces:
        return ()
    return (Piece(f"    {_function_name(parts)}(ck)\n", parts.script.path.stem),)
