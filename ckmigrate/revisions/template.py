"""The text of a new migration script, its id and its file name.

Rendering and reading are a pair: `read_script` finds in a rendered script the literals that went
in, whatever characters the message has. A script without a body is not an empty migration: it
contains a `ck.todo(…)`, which refuses to run.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import textwrap
import unicodedata

from ckmigrate.errors import UsageError
from ckmigrate.revisions.graph import History
from ckmigrate.revisions.script import API, first_line, is_release

__all__ = ["docstring", "new_revision_id", "next_file_name", "render"]

_SLUG_LENGTH = 40
_PUBLIC = ("concat", "init", "stack")
_PLACEHOLDER = """\
ck.todo("describe what changed")
# ck.rename("encoder.{i}.**", "blocks.{i}.**")
# ck.split("blocks.{i}.qkv.weight", "blocks.{i}.{q,k,v}.weight", dim=0)
# ck.reshape("head.weight", lambda t: t.shape[:2])
# ck.init("scale", shape=(8,), value=init.ones())  # from ckmigrate import init
# ck.drop("aux.**", reason="the auxiliary loss was removed")
"""


def render(
    message: str,
    *,
    revision: str,
    revises: str | tuple[str, ...] | None,
    release: str | None = None,
    body: str | None = None,
    offered: str = "",
) -> str:
    """A formatted script, ending in a newline.

    `body` is the text of `upgrade(ck)`, not indented; names of the public package that it uses are
    imported, and so are those of `offered`, the calls that stand in it as comments. None, or
    nothing but blanks, gives the placeholder. Raises UsageError CKM209 for a
    message without a visible character and for a release that is not a version number.
    """
    if not first_line(message):
        fix = 'Say in a few words what changed: -m "Split the fused projection".'
        raise UsageError("CKM209", "a revision needs a message", fix=fix)
    if release is not None and not is_release(release):
        what, fix = f"'{release}' is not a release", 'Write a version such as "1.2" (PEP 440).'
        raise UsageError("CKM209", what, fix=fix)
    body = body if body and body.strip() else _PLACEHOLDER
    literals = [f"revision = {_quoted(revision)}", f"revises = {_parents(revises)}"]
    if release is not None:
        literals.append(f"release = {_quoted(release)}")
    imports = (
        f"from ckmigrate import {', '.join(used)}\n\n" if (used := _used(body, offered)) else ""
    )
    head = "\n".join((docstring(message), "", imports + "\n".join(literals), f"api = {API}"))
    return f"{head}\n\n\ndef upgrade(ck):\n{textwrap.indent(body.rstrip(), '    ')}\n"


def new_revision_id() -> str:
    """Ten random hexadecimal digits that nobody can take for a number (`4` is a file number)."""
    while True:
        revision = secrets.token_hex(5)
        # 12e4567890 is a float to YAML and to spreadsheets.
        if re.sub("e", "", revision, count=1).isdigit():
            continue
        return revision


def next_file_name(history: History, message: str) -> str:
    """`NNNN_slug.py`: one more than the highest number so far, and the message in plain letters."""
    number = max((script.number or 0 for script in history.order), default=0) + 1
    return f"{number:04d}_{_slug(message)}.py"


def _slug(message: str) -> str:
    plain = unicodedata.normalize("NFKD", first_line(message)).encode("ascii", "ignore").decode()
    slug = "_".join(re.findall("[a-z0-9]+", plain.lower()))
    if len(slug) > _SLUG_LENGTH:
        # Up to the last whole word that fits, where there is one.
        slug = slug[: _SLUG_LENGTH + 1].rpartition("_")[0] or slug[:_SLUG_LENGTH]
    return slug or "revision"


def docstring(message: str) -> str:
    """The text as the docstring of a script, quotes included."""
    lines = [line.rstrip() for line in message.strip().splitlines()]
    text = _escaped("\n".join((lines[0].strip(), *lines[1:])))
    return f'"""{text}\n"""' if len(lines) > 1 else f'"""{text}"""'


def _escaped(text: str) -> str:
    """The text for the inside of a triple-quoted literal, on as many lines as it has."""
    text = text.replace("\\", "\\\\")
    # Only quotes that touch each other or the delimiters could end the literal.
    text = re.sub(r'""+|\A"|"\Z', lambda quotes: '\\"' * len(quotes[0]), text)
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _parents(revises: str | tuple[str, ...] | None) -> str:
    if isinstance(revises, tuple):
        return f"({', '.join(map(_quoted, revises))})"
    return "None" if revises is None else _quoted(revises)


def _quoted(text: str) -> str:
    return json.dumps(text)


def _used(body: str, offered: str) -> tuple[str, ...]:
    """The public names that the body uses, or may come to use, without importing them itself."""
    texts = (body, offered)
    nodes = [node for text in texts for node in ast.walk(ast.parse(textwrap.dedent(text)))]
    loaded = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = {
        alias.asname or alias.name
        for n in nodes
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }
    return tuple(name for name in _PUBLIC if name in loaded - own)
