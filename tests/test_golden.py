"""The plans under `golden/`: their text is compared, and they are run.

`CKMIGRATE_WRITE_GOLDEN=1` writes the text anew.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ckmigrate.compile import start, trace
from ckmigrate.lower import Compute, Copy, Gather, Lowered, SourceRange
from ckmigrate.planning import Plan, make_plan
from ckmigrate.spec import DType
from tests.laws.chains import bytes_of, schema_of
from tests.naive import Entry, Naive, items_of
from tests.scripted import script

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def sections(text: str) -> dict[str, str]:
    parts = text.split("# ")[1:]
    return {head: body for head, _, body in (part.partition("\n") for part in parts)}


def entries_of(text: str) -> dict[str, Entry]:
    found, mark = {}, 0
    for line in text.splitlines():
        name, dtype, shape = line.split()
        sizes = tuple(int(size) for size in shape.strip("[]").split(",") if size)
        kind = DType.parse(dtype)
        values = []
        for _ in range(math.prod(sizes)):
            mark += 1
            values.append(mark * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << kind.bits))
        found[name] = Entry(kind, items_of(values, sizes))
    return found


def shown(plan: Plan) -> str:
    lines = [f"{entry.name} {entry.spec}: {_work(entry.lowered)}" for entry in plan.entries]
    lines += [f"tied: {', '.join(group)}" for group in plan.ties]
    totals = plan.totals
    lines.append(f"copied {totals.copied}, filled {totals.filled}, gathered {totals.gathered}")
    return "\n".join(lines) + "\n"


def _work(lowered: Lowered) -> str:
    match lowered:
        case Gather():
            return "gather"
        case Compute():
            return "compute"
    assert isinstance(lowered, Copy)
    words = [
        f"{item.name}[{item.start}:{item.start + item.nbytes}]"
        if isinstance(item, SourceRange)
        else f"{item.nbytes} × 0x{item.element.hex()}"
        for item in lowered.ranges
    ]
    return " + ".join(words) or "nothing"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_plan_reads_as_it_did_and_gives_the_right_bytes(path: Path, tmp_path: Path) -> None:
    golden = sections(path.read_text(encoding="utf-8"))
    entries = entries_of(golden["before"])
    state = start(schema_of(entries))
    done = trace([script(tmp_path, golden["script"])], state, {})
    plan = make_plan(done, is_plain=lambda name: True, peak=lambda entry: 0)
    if os.environ.get("CKMIGRATE_WRITE_GOLDEN"):
        text = f"# before\n{golden['before']}# script\n{golden['script']}# plan\n{shown(plan)}"
        path.write_text(text, encoding="utf-8")
    else:
        assert shown(plan) == golden["plan"]
    world = Naive(entries)
    exec(golden["script"], {"ck": world})
    wanted = world.bytes_by_name()
    assert list(wanted) == [entry.name for entry in plan.entries]
    data = Naive(entries).bytes_by_name()
    for entry in plan.entries:
        assert bytes_of(entry.expr, data, state.schema) == wanted[entry.name], entry.name


def test_every_structural_operation_has_a_golden_plan() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    operations = """rename split concat stack unstack reshape squeeze unsqueeze flatten permute
        transpose rearrange slice resize init drop copy tie gather"""
    assert not [name for name in operations.split() if f"ck.{name}(" not in text]
