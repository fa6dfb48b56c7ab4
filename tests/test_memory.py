"""The plan's estimate of memory is an upper bound of what a run takes.

A small run goes first: pages of libraries count as memory too, and come in at their first use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.projects import Zoo

CHILD = """
import json, sys
from pathlib import Path
from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history

def kilobytes(field):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

project = find_project(Path(sys.argv[1]))
request = Request(from_revision="base", use_model=False)
history = read_history(project.migrations)

def run(old, new):
    prepared = prepare(project, history, Path(old), request)
    before = kilobytes("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    carry_out(prepared, Destination(Path(new)))
    return [prepared.plan.peak_memory, (kilobytes("VmHWM") - before) * 1024]

run(*sys.argv[2:4])
print(json.dumps(run(*sys.argv[4:6])))
"""
MOVES = {
    "transposed": "ck.transpose('{n}', 0, 1)",
    "cast": "ck.cast('{n}', 'bfloat16')",
    "cast and turned": "ck.transpose('{n}', 0, 1)\nck.cast('{n}', 'bfloat16')",
    "computed": "ck.compute('{n}', '{n}', lambda t: t * 2)",
    "joined in lines": "ck.concat(['a', 'b'], 'a', dim=1)",
    "drawn": "ck.init('e', shape=(3000, 3000), value=init.normal(0.0, 1.0))",
    "rotary": "ck.rearrange('{n}', '(h two d) c -> (h d two) c', h=8, two=2)",
}
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""Without it, glibc holds back up to 64 MB of what was freed, as chance will have it."""
OVERHEAD = 24 << 20
"""Bytes of small things: buffers of the checksums, objects, what allocators hold back."""


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_run_takes_no_more_memory_than_its_plan_says(
    tmp_path: Path, move: str, suffix: str
) -> None:
    zoo = Zoo(tmp_path, MOVES[move])
    small = zoo.save({name: torch.ones(512, 512) for name in "abcd"}, f"small{suffix}")
    old = zoo.save({name: torch.ones(4608, 4096) for name in "abcd"}, f"old{suffix}")
    assert old.stat().st_size > 300_000_000
    pairs = [str(small), f"{tmp_path}/warm{suffix}", str(old), f"{tmp_path}/new{suffix}"]
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), *pairs]
    environment = {**os.environ, **GIVES_BACK, "PYTHONPATH": os.getcwd()}
    run = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    told, taken = json.loads(run.stdout)
    assert taken <= told + OVERHEAD
    assert told <= 8 * (4608 * 4096 * 4)


def test_too_little_memory_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, MOVES["transposed"])
    old = zoo.save({"a": torch.ones(100, 200)})
    error = zoo.refusal(old, max_memory=2 * 80_000 - 1)
    assert error.code == "CKM561"
    zoo.upgrade(old, max_memory=2 * 80_000)
