"""One migration script: its literals, read without running it, and its functions, on request.

`read_script` looks at the syntax tree only, so listing a history executes no user code. `load` runs
exactly the text that was read. What a script does is deliberately not looked at here: an `upgrade`
that does nothing is valid, because a revision that joins two branches has nothing to do.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckmigrate.errors import MigrationError
from ckmigrate.revisions.syntax import API, Declared, parse_declared, place, read_bytes, refuse

__all__ = [
    "API",
    "LoadedScript",
    "Revises",
    "Script",
    "first_line",
    "is_release",
    "load",
    "parse_script",
    "read_script",
]

Revises = str | tuple[str, ...] | None
"""What a script builds on: nothing, one revision, or several."""

_ID = re.compile(r"[0-9a-f]{8,32}")
_FILE_STEM = re.compile(r"(?:(?P<number>[0-9]+)(?:_|$))?(?P<slug>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    """What one file of the migrations folder declares.

    id           immutable revision id, 8 to 32 lower-case hexadecimal digits
    revises      None for the first script, one id, or a tuple of ids for a merge
    replaces     of a squashed script: the ids of the stretch that it stands for, oldest first; the
                 last one is its own, because it leads to the same state
    pruned       of a squashed script whose originals were removed: "releases" by version, and the
                 "version", "release" and "commit" of the project that still had them
    formerly     ids that it had before a rebase put it elsewhere, with what it revised under each
    message      first line of the docstring; without one, the words of the file name
    number, slug from a file name `NNNN_slug.py`; cosmetic, either may be None
    todo_lines   lines that call `….todo(…)`: the script is not finished
    foreign_imports  imported packages other than ckmigrate, torch, numpy and the standard library
    source       the text that was read, and that `load` runs
    """

    path: Path
    id: str
    revises: Revises = None
    formerly: tuple[tuple[str, Revises], ...] = ()
    release: str | None = None
    irreversible: str | None = None
    replaces: tuple[str, ...] = ()
    pruned: Mapping[str, Any] = field(default_factory=dict, hash=False)
    has_downgrade: bool = False
    has_verify: bool = False
    message: str = ""
    number: int | None = None
    slug: str | None = None
    todo_lines: tuple[int, ...] = ()
    foreign_imports: tuple[str, ...] = ()
    source: str = field(default="", repr=False)

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids this script builds on: none, one, or several for a merge."""
        if self.revises is None:
            return ()
        return (self.revises,) if isinstance(self.revises, str) else self.revises

    @property
    def label(self) -> str:
        """How messages name the script, such as `7c1e9a04f2 (0004_split_qkv.py)`."""
        return f"{self.id} ({self.path.name})"

    @property
    def has_todo(self) -> bool:
        """Whether a placeholder is left in the script."""
        return bool(self.todo_lines)

    def load(self) -> LoadedScript:
        """The functions of the script; see `load`."""
        return load(self)


@dataclass(frozen=True, slots=True)
class LoadedScript:
    """The functions of an executed script: `upgrade(ck)`, `downgrade(ck)`, `verify(old, new)`."""

    upgrade: Callable[[Any], Any]
    downgrade: Callable[[Any], Any] | None = None
    verify: Callable[[Any, Any], Any] | None = None


def first_line(text: str) -> str:
    """The first line of a text that holds something, stripped; "" where there is none."""
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else ""


def read_script(path: Path) -> Script:
    """Read one script without running it.

    Raises HistoryError CKM301 (unreadable), and what `parse_script` raises.
    """
    return parse_script(read_bytes(path), path)


def parse_script(data: bytes, path: Path) -> Script:
    """The script that these bytes are, as the file `path`.

    Raises HistoryError CKM301 (no text), CKM302 (syntax), CKM303 (missing literal), CKM304
    (assigned twice, or not a literal), CKM305 (wrong value), CKM306 (newer api), CKM307
    (functions), CKM308 (both a downgrade and irreversible).
    """
    declared = parse_declared(data, path)
    _check_literals(declared, path)
    literals, functions = declared.literals, declared.functions
    number, slug = _file_name(path)
    return Script(
        path=path,
        id=literals["revision"],
        revises=literals["revises"],
        formerly=tuple((literals.get("formerly") or {}).items()),
        release=literals.get("release"),
        irreversible=literals.get("irreversible"),
        replaces=literals.get("replaces") or (),
        pruned=literals.get("pruned") or {},
        has_downgrade="downgrade" in functions,
        has_verify="verify" in functions,
        message=first_line(declared.docstring) or (slug or "").replace("_", " "),
        number=number,
        slug=slug,
        todo_lines=declared.todo_lines,
        foreign_imports=declared.foreign_imports,
        source=declared.source,
    )


def load(script: Script) -> LoadedScript:
    """Run the script in a fresh namespace and return its functions.

    Raises MigrationError CKM510 when the script raises, or calls `sys.exit`, while it is imported.
    """
    namespace = _execute(script)
    wanted = {"upgrade": True, "downgrade": script.has_downgrade, "verify": script.has_verify}
    functions = {name: namespace.get(name) for name, defined in wanted.items() if defined}
    for name, function in functions.items():
        if not callable(function):
            raise MigrationError(
                "CKM510",
                f"'{name}' of {script.label} is {type(function).__name__} after the import",
                where=str(script.path),
                why="a decorator, or a later line, replaced the function",
                fix=f"Make '{name}' a plain function.",
            )
    return LoadedScript(**functions)  # type: ignore[arg-type]


def _execute(script: Script) -> Mapping[str, Any]:
    module = types.ModuleType(f"_ckmigrate_script_{script.id}", None)
    module.__file__ = str(script.path)
    # Dataclasses and typing look their module up while the body runs; it is not left behind.
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        code = compile(script.source, str(script.path), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise _import_failure(script, error) from error
    finally:
        sys.modules.pop(module.__name__, None)
        if before is not None:
            sys.modules[module.__name__] = before
    return module.__dict__


def _import_failure(script: Script, error: BaseException) -> MigrationError:
    import traceback

    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(script.path)]
    if isinstance(error, SyntaxError) and error.lineno and not lines:
        lines = [error.lineno]
    fix = "Correct the script; what it does at module level runs on every upgrade."
    if isinstance(error, ImportError):
        fix = "Import only ckmigrate, torch, numpy and the standard library in a script."
    return MigrationError(
        "CKM510",
        f"script raised {type(error).__name__} while it was imported: {script.label}",
        where=place(script.path, lines[-1] if lines else None),
        why=str(error) or f"{type(error).__name__} without a text",
        fix=fix,
    )


def _file_name(path: Path) -> tuple[int | None, str | None]:
    """The number and the slug of `NNNN_slug.py`."""
    parts = _FILE_STEM.fullmatch(path.stem)
    number, slug = (parts["number"], parts["slug"]) if parts else (None, None)
    return int(number) if number else None, slug or None


def _check_literals(declared: Declared, path: Path) -> None:
    literals, lines = declared.literals, declared.lines
    for name, value in literals.items():
        wanted = _wanted(name, value)
        if wanted is not None:
            what = f"'{name}' of {path.name} has a wrong value"
            why = f"expected {wanted}, got {_shown(value)}"
            refuse("CKM305", what, path, lines[name], why=why, fix=f"Correct '{name}'.")
    replaced = literals.get("replaces")
    if replaced and replaced[-1] != literals["revision"]:
        what = f"{path.name} does not lead to the last revision that it replaces"
        why = f"its revision is {literals['revision']}, the last one replaced is {replaced[-1]}"
        fix = f"Give it the revision {replaced[-1]}: it leads to the same state."
        refuse("CKM305", what, path, lines["replaces"], why=why, fix=fix)
    if literals.get("irreversible") is not None and "downgrade" in declared.functions:
        what = f"{path.name} declares itself irreversible and defines downgrade(ck)"
        line, fix = lines["irreversible"], "Remove one of the two."
        refuse("CKM308", what, path, line, why="only one can be true", fix=fix)


def _wanted(name: str, value: object) -> str | None:
    """What a literal should have been; None where it is right."""
    if name == "api":
        return None if type(value) is int and value == API else f"the number {API}"
    if name == "revision":
        return None if _is_id(value) else "8 to 32 lower-case hexadecimal digits as a string"
    if name == "revises":
        wanted = "None, one revision id, or a tuple of two or more ids"
        return None if _is_parents(value) else wanted
    if value is None:
        return None
    if name == "replaces":
        ids = value if isinstance(value, tuple) and all(map(_is_id, value)) else ()
        return None if len(set(ids)) == len(ids) > 1 else "a tuple of two or more ids"
    if name == "pruned":
        return None if _is_record(value) else "a dict of texts, as `ckmigrate prune` writes it"
    if name == "formerly":
        former = value if isinstance(value, dict) else {0: 0}
        right = all(map(_is_id, former)) and all(map(_is_parents, former.values()))
        return None if right else "a dict of former ids and what was revised under each"
    if name == "release":
        return None if is_release(value) else 'a release such as "1.2" (PEP 440)'
    filled = isinstance(value, str) and value.strip()
    return None if filled else "a sentence that says why it cannot be undone"


def _is_record(value: object) -> bool:
    def texts(found: object) -> bool:
        return isinstance(found, dict) and all(
            isinstance(k, str) and isinstance(v, str) for k, v in found.items()
        )

    if not isinstance(value, dict):
        return False
    return texts(value.get("releases", {})) and texts(
        {key: item for key, item in value.items() if key != "releases"}
    )


def _is_parents(value: object) -> bool:
    merge = isinstance(value, tuple) and len(value) > 1 and all(map(_is_id, value))
    return value is None or _is_id(value) or merge


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_release(value: object) -> bool:
    """Whether the value is a version number in the sense of PEP 440."""
    from packaging.version import InvalidVersion, Version

    try:
        return isinstance(value, str) and Version(value) is not None
    except InvalidVersion:
        return False


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        text = "a number with too many digits to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
