"""Running the body of an `upgrade(ck)` as a real script file, and what errors must tell."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ckmigrate.compile import Trace, start, trace, trace_back
from ckmigrate.errors import MigrationError
from ckmigrate.execute.evaluate import Evaluator
from ckmigrate.expr import Expr
from ckmigrate.meta import Meta
from ckmigrate.revisions.script import Script, read_script
from ckmigrate.spec import DType, Schema, TensorSpec
from ckmigrate.ties import Ties

HEAD = '''"""A change."""
import torch
from ckmigrate import concat, init, stack
revision = "{revision}"
revises = None
api = 1
{extra}
def upgrade(ck):
'''
FIRST_LINE = 9
"""Line of the first statement of upgrade()."""

Specs = Mapping[str, tuple[int, ...] | TensorSpec]


def script(
    folder: Path, body: str, *, name: str = "0001_change.py", extra: str = "", after: str = ""
) -> Script:
    path = folder / name
    text = HEAD.format(revision="7c1e9a04f2", extra=extra)
    text += textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
    path.write_text(text + textwrap.dedent(after), encoding="utf-8")
    return read_script(path)


def schema(specs: Specs) -> Schema:
    return Schema(
        (name, spec if isinstance(spec, TensorSpec) else TensorSpec(DType.F32, spec))
        for name, spec in specs.items()
    )


def traced(
    folder: Path,
    body: str,
    specs: Specs,
    *,
    ties: Ties = (),
    tree: object = None,
    params: Mapping[str, object] | None = None,
    after: str = "",
) -> Trace:
    """The trace of one script on a checkpoint of float32 tensors."""
    meta = Meta.unknown() if tree is None else Meta(tree)
    state = start(schema(specs), ties=ties, meta=meta)
    return trace([script(folder, body, after=after)], state, params or {})


def undone(folder: Path, trace_up: Trace) -> Trace:
    """The way back from the end of a trace of one script, on a fresh file with its schema."""
    (step,) = trace_up.scripts
    state = start(trace_up.end.schema, ties=trace_up.end.ties)
    return trace_back([step.script], state, {}, {step.script.id: step})


def shapes(result: Trace) -> dict[str, tuple[int, ...]]:
    return {name: expr.spec.shape for name, expr in result.end.entries.items()}


def refused(
    folder: Path,
    body: str,
    specs: Specs,
    *words: str,
    code: str,
    operation: str,
    line: int = FIRST_LINE,
    tree: object = None,
    params: Mapping[str, object] | None = None,
) -> MigrationError:
    """The error that a script ends in: it has the code, names the script, the line and the
    operation, every word stands in it, and it says why and what to do next."""
    with pytest.raises(MigrationError) as caught:
        traced(folder, body, specs, tree=tree, params=params)
    error = caught.value
    assert error.code == code, error
    place = f"0001_change.py, line {line}"
    assert error.where == (f"{place}: {operation}" if operation else place), error
    assert error.why, error
    assert error.fix, error
    told = str(error)
    for word in words:
        assert word in told, error
    return error


def values_of(expr: Expr, data: Mapping[str, bytes], itemsize: int = 4) -> bytes:
    """The expression's bytes, where each name's data is given whole."""

    def read(name: str, first: int, count: int) -> bytes:
        return data[name][first * itemsize : (first + count) * itemsize]

    return Evaluator(read).evaluate(expr).tobytes()


Refused = Callable[..., MigrationError]
