"""A squashed chain is the chain: of random operations, cut into scripts at random places."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.compile import start, trace
from ckmigrate.identify import Replay
from ckmigrate.revisions.graph import read_history
from ckmigrate.snapshot import Snapshot
from ckmigrate.spec import DType
from ckmigrate.squash.same import differences
from ckmigrate.squash.squash import squash, stretch
from tests.laws.chains import Act, Case, cases, evaluated
from tests.naive import pack
from tests.projects import revision

HEAD = "from ckmigrate import concat, init\nrevision = {0!r}\nrevises = {1!r}\napi = 1\n\n\n"


def call_text(act: Act) -> str:
    """The act as a statement of a script."""
    operation, args, kwargs = act
    if operation == "assign":
        target, pieces, dim = args
        parts = [f"ck[{name!r}][{key!r}]" for name, key in pieces]
        value = parts[0] if dim is None else f"concat([{', '.join(parts)}], {dim})"
        return f"ck[{target!r}] = {value}"
    more = {key: v.code if isinstance(v, DType) else v for key, v in kwargs.items()}
    more |= {"value": None} if operation == "init" else {}
    given = [*map(repr, args), *(f"{key}={value!r}" for key, value in more.items())]
    return f"ck.{operation}({', '.join(given)})".replace("value=None", "value=init.zeros()")


def write(folder: Path, case: Case, cuts: list[int]) -> int:
    """The scripts of a case, cut at these places; how many they are."""
    ends = sorted({*cuts, len(case.acts)} - {0})
    begin = 0
    for number, end in enumerate(ends, start=1):
        before = revision(number - 1) if number > 1 else None
        body = "".join(f"    {call_text(act)}\n" for act in case.acts[begin:end])
        text = HEAD.format(revision(number), before) + f"def upgrade(ck):\n{body}"
        (folder / f"{number:04}_part.py").write_text(text)
        begin = end
    return len(ends)


@given(cases([DType.F32, DType.I64]), st.lists(st.integers(1, 11), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_squashed_chain_gives_the_same_expressions_and_bytes(case: Case, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = write(folder, case, [cut for cut in cuts if cut < len(case.acts)])
        if count < 2:
            return
        _compare(folder, case, count)


def _compare(folder: Path, case: Case, count: int) -> None:
    history = read_history(folder)
    snapshot = Snapshot(case.schema, case.ties, "any")
    scripts = stretch(history, revision(1), revision(count))
    path = folder / f"{count:04}_squash.py"
    options: dict[str, Any] = {"message": "All.", "path": path}
    found = squash(scripts, {"any": Replay(history, snapshot, {})}, {}, **options)
    path.write_text(found.text)
    begin = start(case.schema, ties=case.ties)
    chain = trace(scripts, begin, {})
    way = read_history(folder).path_up(None, revision(count))
    assert [script.path.name for script in way] == [path.name]
    once = trace(way, begin, {})
    assert differences(chain, once) == ()
    data = {name: pack(entry) for name, entry in case.entries.items()}
    for name, expr in chain.end.entries.items():
        made = once.end.entries[name]
        assert evaluated(made, data, case.schema) == evaluated(expr, data, case.schema)
