"""A chain of 20 structural migrations, against `cp` and against a load-and-save script.

    python benchmarks/structural.py [--gigabytes 0.5 2] [--rounds 3] [--folder DIR]

Each row is the median ratio of paired runs: ckmigrate and the other thing, one after the other, on
the same file with a warm page cache, everything forced to stable storage. Peak memory is the
operating system's own account of the finished process. Quote ratios, never seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REVISIONS = 20
LOAD_AND_SAVE = """
import os, sys
from safetensors.torch import load_file, save_file
old = load_file(sys.argv[1])
new = {}
for name, tensor in old.items():
    name = name.replace("transformer.", "encoder.")
    if ".qkv." in name:
        for part, piece in zip("qkv", tensor.chunk(3)):
            new[name.replace("qkv", part)] = piece.contiguous()
    else:
        new[name] = tensor
save_file(new, sys.argv[2])
fd = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(fd)
"""
COPY = """
import os, subprocess, sys
subprocess.run(["cp", sys.argv[1], sys.argv[2]], check=True)
fd = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(fd)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Wall seconds and peak resident megabytes of one finished process."""

    seconds: float
    megabytes: float


def measure(arguments: Sequence[str], output: Path) -> Run:
    """Run a command that writes `output`, which is removed before and after."""
    output.unlink(missing_ok=True)
    begin = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with exit code {process.returncode}")
    output.unlink()
    return Run(seconds, usage.ru_maxrss / 1024)


def write_checkpoint(path: Path, gigabytes: float, dim: int = 1024) -> int:
    """A transformer of random float32 bytes; returns the number of its tensors."""
    shapes = {
        "attn.qkv.weight": (3 * dim, dim),
        "attn.proj.weight": (dim, dim),
        "norm.weight": (dim,),
    }
    layers = max(1, round(gigabytes * 1e9 / (4 * dim * (4 * dim + 1))))
    header: dict[str, object] = {}
    offset = 0
    for layer in range(layers):
        for leaf, shape in shapes.items():
            size = 4
            for length in shape:
                size *= length
            span = [offset, offset + size]
            entry = {"dtype": "F32", "shape": list(shape), "data_offsets": span}
            header[f"transformer.h.{layer}.{leaf}"] = entry
            offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, offset, len(block)):
            file.write(block[: min(len(block), offset - start)])
    return len(header)


def write_project(folder: Path, revisions: int) -> None:
    """A project whose history renames everything in every revision and splits once."""
    scripts = folder / "migrations"
    scripts.mkdir(parents=True)
    (folder / "ckmigrate.toml").write_text('name = "benchmark"\n', encoding="utf-8")
    parent: str | None = None
    for number in range(revisions):
        revision = f"{0xABC0000000 + number:010x}"
        old = "transformer" if number == 0 else f"step{number - 1}"
        lines = [
            f'"""Step {number}."""',
            f"revision = {revision!r}",
            f"revises = {parent!r}",
            "api = 1",
        ]
        lines += ["def upgrade(ck):", f'    ck.rename("{old}.**", "step{number}.**")']
        if number == 1:
            source = f"step{number}.h.{{i}}.attn.qkv.weight"
            lines.append(f'    ck.split("{source}", "{source.replace("qkv", "{q,k,v}")}", dim=0)')
        (scripts / f"{number + 1:04d}_step.py").write_text(
            "\n".join(lines) + "\n", encoding="utf-8"
        )
        parent = revision


def compare(folder: Path, gigabytes: float, rounds: int) -> None:
    """Print the rows for one size."""
    source, output = folder / "source.safetensors", folder / "output.safetensors"
    tensors = write_checkpoint(source, gigabytes)
    command = [sys.executable, "-m", "ckmigrate", "--config", str(folder / "ckmigrate.toml")]
    ours = [
        *command,
        "-q",
        "upgrade",
        str(source),
        "-o",
        str(output),
        "--no-model",
        "--from",
        "base",
    ]
    others = {"cp + fsync": COPY, "load_file, dict, save_file, fsync": LOAD_AND_SAVE}
    measure(ours, output)
    for label, text in others.items():
        pairs = [
            (
                measure(ours, output),
                measure([sys.executable, "-c", text, str(source), str(output)], output),
            )
            for _ in range(rounds)
        ]
        ratios = [a.seconds / b.seconds for a, b in pairs]
        print(
            f"| {source.stat().st_size / 1e9:.2f} GB, {tensors} tensors | {label} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {max(a.megabytes for a, _ in pairs):.0f} MB "
            f"| {max(b.megabytes for _, b in pairs):.0f} MB |",
            flush=True,
        )
    source.unlink()


def main() -> None:
    """Parse the command line and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 2.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write; needs 3 × the size"
    )
    options = parser.parse_args()
    print(f"{REVISIONS} revisions, {options.rounds} paired rounds, {os.cpu_count()} cores\n")
    print("| file | against | time ratio, median (range) | our peak | their peak |")
    print("|---|---|---|---|---|")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        write_project(folder, REVISIONS)
        for gigabytes in options.gigabytes:
            compare(folder, gigabytes, options.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
