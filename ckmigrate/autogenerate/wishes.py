"""What the user says beforehand: --rename 'OLD=NEW', and --map FILE.toml.

    [renames]
    "transformer.**" = "encoder.**"      # old pattern = new pattern; a module's name is enough

    [drop]
    "aux.**" = "the auxiliary loss was removed"      # old pattern = the reason

    [init]
    "blocks.{i}.scale" = "full(1e-5)"    # new pattern = an initialiser of ckmigrate.init

Every table may be absent. A pattern that matches nothing, an unknown table, or a value that cannot
be read is an error with the line: a wish that is ignored would be a guess in disguise.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckmigrate import init
from ckmigrate.autogenerate.settle import Side
from ckmigrate.errors import MigrationError, UsageError
from ckmigrate.names import nearest, pair, select

__all__ = ["Wish", "Wishes", "fitted", "parse_rename", "read_map"]

_TABLES = ("renames", "drop", "init")


@dataclass(frozen=True, slots=True)
class Wish:
    """One wish: a pattern, what is to become of it, and where it was said."""

    pattern: str
    value: str
    where: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """renames: pattern → new pattern; drops: pattern → reason; inits: new pattern → initialiser."""

    renames: tuple[Wish, ...] = ()
    drops: tuple[Wish, ...] = ()
    inits: tuple[Wish, ...] = ()

    def __add__(self, other: Wishes) -> Wishes:
        return Wishes(
            self.renames + other.renames, self.drops + other.drops, self.inits + other.inits
        )


def parse_rename(text: str) -> Wish:
    """Read "OLD=NEW"; UsageError CKM250 for anything else."""
    old, sign, new = (part.strip() for part in text.partition("="))
    if not (old and sign and new):
        raise UsageError(
            "CKM250",
            f"--rename {text!r} does not say what becomes what",
            fix="Write --rename 'OLD=NEW', such as 'transformer.**=encoder.**'.",
        )
    return Wish(old, new, f"--rename {text!r}")


def read_map(path: Path) -> Wishes:
    """Read a map file.

    UsageError: CKM251 unreadable or no TOML, CKM252 an unknown table, or a value that is no text or
    no initialiser.
    """
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}, line {line[1]}" if line else str(path)
        raise _unreadable(path, where, str(error)) from None
    unknown = [key for key in data if key not in _TABLES]
    if unknown:
        why = f"the tables are {', '.join(f'[{name}]' for name in _TABLES)}"
        raise _wrong(f"there is no table [{unknown[0]}]", _place(path, text, unknown[0]), why)
    tables = (tuple(_wishes(data.get(name, {}), name, text, path)) for name in _TABLES)
    return Wishes(*tables)


def fitted(wishes: Wishes, sides: Sequence[Side]) -> Wishes:
    """The wishes, with names of modules as patterns of what is in them.

    UsageError CKM250, with the nearest names, for a pattern that no entry of any model matches, and
    for a rename to where no model has anything. MigrationError where the sides do not fit.
    """
    old = list(dict.fromkeys(name for side in sides for name in side.old.schema))
    new = list(dict.fromkeys(name for side in sides for name in side.new.schema))
    drops = tuple(_fit(wish, old) for wish in wishes.drops)
    dropped = {match.name for wish in drops for match in select(wish.pattern, old)}
    renames = tuple(_fit(wish, old, both=True) for wish in wishes.renames)
    _check_targets(renames, sides, dropped)
    return Wishes(renames, drops, tuple(_fit(wish, new) for wish in wishes.inits))


def _check_targets(
    renames: Sequence[Wish], sides: Sequence[Side], dropped: Collection[str]
) -> None:
    """A typing error on the right side must not make an entry that the model has no use for.

    Right is what brings an entry to a name of the model, also by way of other renames, and what
    brings it near one: parts that are joined later stand beside or below what is made of them.
    """
    used: set[Wish] = set()
    for side in sides:
        modules = _modules(side.new.schema)
        used.update(wish for wish in renames if not modules.isdisjoint(_places(wish.value)))
        for name, ways in _renamed(renames, side, dropped).items():
            used.update(ways if name in side.new.schema else ())
    for wish in renames:
        if wish not in used:
            raise _useless(wish, [name for side in sides for name in side.new.schema])


def _renamed(
    renames: Sequence[Wish], side: Side, dropped: Collection[str]
) -> dict[str, tuple[Wish, ...]]:
    """The names of a side after all renames, each with the renames that it came by."""
    ways: dict[str, tuple[Wish, ...]] = {n: () for n in side.old.schema if n not in dropped}
    for wish in renames:
        made = pair(wish.pattern, wish.value, ways, optional=True)
        ways = {made.get(n, n): (*way, wish) if n in made else way for n, way in ways.items()}
    return ways


def _useless(wish: Wish, names: Collection[str]) -> UsageError:
    near = nearest(wish.value, names)
    return UsageError(
        "CKM250",
        f"the model has nothing named '{wish.value}'",
        where=wish.where,
        why=f"Nearest: {', '.join(near)}." if near else "No entry is named like it.",
        fix="Correct the new name; what shall go belongs into [drop] of a --map FILE.",
    )


def _places(pattern: str) -> set[str]:
    """The module that a pattern writes into, as far as it says so, and the one around it."""
    literal = re.split(r"[*{]", pattern, maxsplit=1)[0]
    module = literal.rpartition(".")[0]
    return {module, module.rpartition(".")[0]} - {""}


def _modules(names: Collection[str]) -> set[str]:
    parts = (name.split(".") for name in names)
    return {".".join(path[:n]) for path in parts for n in range(1, len(path))}


def _fit(wish: Wish, names: Collection[str], *, both: bool = False) -> Wish:
    if _matches(wish, wish.pattern, names):
        return wish
    inside = f"{wish.pattern}.**"
    if "*" not in wish.pattern and _matches(wish, inside, names):
        value = f"{wish.value}.**" if both else wish.value
        return replace(wish, pattern=inside, value=value)
    near = nearest(wish.pattern, names)
    raise UsageError(
        "CKM250",
        f"nothing matches '{wish.pattern}'",
        where=wish.where,
        why=f"Nearest: {', '.join(near)}." if near else "No entry is named like it.",
        fix="Correct the pattern; it describes whole names, as in ck.rename.",
    )


def _matches(wish: Wish, pattern: str, names: Collection[str]) -> bool:
    try:
        return bool(select(pattern, names))
    except MigrationError as error:
        fix = error.fix or "Correct the pattern."
        raise UsageError("CKM250", error.what, where=wish.where, why=error.why, fix=fix) from None


def _wishes(table: object, name: str, text: str, path: Path) -> Iterator[Wish]:
    if not isinstance(table, dict):
        raise _wrong(f"'{name}' is not a table", _place(path, text, name), f"write [{name}]")
    for pattern, value in table.items():
        where = _place(path, text, pattern)
        if not isinstance(value, str) or not value.strip():
            why = "it must be text in quotes"
            raise _wrong(f"the value of '{pattern}' in [{name}] is wrong", where, why)
        yield Wish(pattern, _initialiser(value, where) if name == "init" else value, where)


def _initialiser(text: str, where: str) -> str:
    """The call as a script writes it: "init.full(1e-5)"; UsageError CKM252 for anything else."""
    short = text.strip().removeprefix("init.")
    if not _is_initialiser(short):
        why = 'it is a call such as "ones()", "full(0.1)" or "kaiming_uniform(a=5 ** 0.5)"'
        raise _wrong(f"{text!r} is not an initialiser", where, why)
    return f"init.{short}"


def _is_initialiser(text: str) -> bool:
    known: Mapping[str, Any] = {
        name: getattr(init, name) for name in init.__all__ if name != "Initialiser"
    }
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return False
        values: list[ast.AST] = [*call.args, *(keyword.value for keyword in call.keywords)]
        if any(isinstance(part, _NO_NUMBERS) for value in values for part in ast.walk(value)):
            return False
        return isinstance(eval(text, {"__builtins__": {}}, known), init.Initialiser)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is no initialiser
        return False


_NO_NUMBERS = (ast.Name, ast.Call, ast.Attribute, ast.Lambda, ast.ListComp, ast.Subscript)


def _place(path: Path, text: str, key: str) -> str:
    """The path and the line on which a key of the file stands."""
    quoted = re.escape(key)
    key_line = re.compile(rf"\s*\[?\s*[\"']?{quoted}[\"']?\s*[\]=.]")
    lines = text.splitlines()
    found = next((number for number, line in enumerate(lines, 1) if key_line.match(line)), None)
    return f"{path}, line {found}" if found else str(path)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _unreadable(path, str(path), why) from None


def _unreadable(path: Path, where: str, why: str) -> UsageError:
    what, fix = f"cannot read the map {path.name}", "Name a TOML file; see docs/autogenerate.md."
    return UsageError("CKM251", what, where=where, why=why, fix=fix)


def _wrong(what: str, where: str, why: str) -> UsageError:
    fix = "Correct the map file; docs/autogenerate.md describes it."
    return UsageError("CKM252", what, where=where, why=why, fix=fix)
