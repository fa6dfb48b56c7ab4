"""The whole program: what it expects, what it makes, and the run-time functions that it needs."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence

from ckmigrate.compile import Trace
from ckmigrate.errors import MigrationError
from ckmigrate.execute import random
from ckmigrate.export import runtime
from ckmigrate.export.expressions import expression_text
from ckmigrate.export.functions import Functions
from ckmigrate.export.loops import Line, literal, looped
from ckmigrate.snapshot import fold_schema
from ckmigrate.spec import Schema

__all__ = ["program"]

_RANDOM = '''
class DType:
    """The dtypes that random values are drawn in."""

    BF16 = "BF16"
    F16 = "F16"
    F32 = "F32"
    F64 = "F64"


class Random(NamedTuple):
    """What is drawn."""

    kind: str
    numbers: tuple[float, ...]
    key: str
    spec: Spec


def random_values(kind, numbers, key, dtype, shape):
    """Values of an initialiser: the same on every machine."""
    spec = Spec(dtype, shape)
    return np.frombuffer(draw(Random(kind, numbers, key, spec)), item_type(dtype)).reshape(shape)
'''


def program(trace: Trace, *, project: str, begin: str, end: str) -> str:
    """The text of a program that converts what the trace begins with into what it ends with.

    MigrationError CKM515 for a function that cannot be exported, CKM516 for a dtype whose elements
    are narrower than a byte.
    """
    _require_bytes(trace.start.schema)
    _require_bytes(trace.end.schema)
    functions = Functions({str(s.script.path): s.script.source for s in trace.scripts})

    def text_of(expr: object) -> str:
        return expression_text(expr, lambda call: functions.name(call.function))  # type: ignore[arg-type]

    lines = looped([Line(name, text_of(expr)) for name, expr in trace.end.entries.items()])
    claims = [
        f"require_equal({_quoted(check.claim)}, {literal(text_of(check.left))}, "
        f"{literal(text_of(check.right))})"
        for check in trace.checks
    ]
    tied = [
        f"require_equal({_quoted(f'{name} is tied to {group[0]}')}, "
        f"old[{_quoted(group[0])}], old[{_quoted(name)}])"
        for group in trace.start.ties
        for name in group[1:]
    ]
    body = ["new = {}", *tied, *claims, *lines, "return new"]
    description = _description(trace, project, begin, end)
    blocks = [
        f'"""{description}"""',
        _imports(functions),
        _table("OLD", trace.start.schema),
        _table("NEW", trace.end.schema),
        f"TIED = {json.dumps([list(group) for group in trace.end.ties])}",
        *functions.texts,
        "def convert(old):\n" + textwrap.indent("\n".join(body), "    "),
        *_parts(inspect.getsource(runtime)),
        *([_RANDOM.strip(), *_parts(inspect.getsource(random))] if _draws(body) else []),
        'if __name__ == "__main__":\n    main(convert, __doc__, OLD, NEW, TIED)',
    ]
    return "\n\n\n".join(blocks) + "\n"


def _draws(body: Sequence[str]) -> bool:
    return any("random_values(" in line for line in body)


def _description(trace: Trace, project: str, begin: str, end: str) -> str:
    """The docstring; every name in it was made printable."""
    words = [
        f"Convert checkpoints of {project} from {begin} to {end}.",
        "",
        "    python PROGRAM OLD NEW",
        "",
        f"OLD must hold exactly {len(trace.start.entries)} tensors, with the names, dtypes and",
        "shapes below; anything else is refused. It is a .safetensors file, or one of torch.save,",
        f"which is read with weights_only=True. NEW gets {len(trace.end.entries)} tensors and",
        "nothing else: metadata and training state are left behind. Needs numpy; and torch for",
        "files of torch.save, casts and functions.",
        "",
        "Written by ckmigrate from the migrations of the project; do not edit.",
    ]
    text = "\n".join(words) + "\n"
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _imports(functions: Functions) -> str:
    own = ["hashlib", "itertools", "json", "math", "os", "re", "sys", "tempfile"]
    modules = sorted({*own, *functions.modules})
    lines = ["from __future__ import annotations", "", *(f"import {name}" for name in modules)]
    lines += ["from pathlib import Path", "from typing import Any, NamedTuple", ""]
    return "\n".join([*lines, "import numpy as np"])


def _table(name: str, schema: Schema) -> str:
    rows = (f"    {_quoted(p)}: {_quoted(text)},\n" for p, text in fold_schema(schema).items())
    return f"{name} = {{\n{''.join(rows)}}}"


def _parts(source: str) -> list[str]:
    """The statements of one of our modules that a program takes along."""
    skipped = ast.Import | ast.ImportFrom | ast.If
    return [
        ast.get_source_segment(source, statement) or ""
        if not getattr(statement, "decorator_list", [])
        else ast.unparse(statement)
        for statement in ast.parse(source).body
        if not isinstance(statement, skipped | ast.Expr) and "__all__" not in ast.dump(statement)
    ]


def _quoted(text: str) -> str:
    return json.dumps(text)


def _require_bytes(schema: Mapping[str, object]) -> None:
    for name, spec in schema.items():
        bits = getattr(getattr(spec, "dtype", None), "bits", 8)
        if bits < 8:
            raise MigrationError(
                "CKM516",
                f"'{name}' is {spec}, which a program of numpy cannot hold",
                why="its elements are narrower than a byte",
                fix="Use `ckmigrate upgrade` for checkpoints with such tensors.",
            )
