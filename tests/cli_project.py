"""A small real project, and the real command run on it as a process.

base   body.layers.{0,1}.qkv.weight, head.{weight,bias}, old.counter
0001   body → encoder
0002   qkv → q, k, v
0003   scale is new, old.counter goes
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckmigrate.snapshot import Snapshot, render_snapshot
from ckmigrate.spec import DType, Schema, TensorSpec
from tests.room import with_room

ROOT = Path(__file__).parents[1]
IDS = ("a1a1a1a1a1", "b2b2b2b2b2", "c3c3c3c3c3")
BASE = {
    "body.layers.0.qkv.weight": (12, 4),
    "body.layers.1.qkv.weight": (12, 4),
    "head.weight": (3, 4),
    "head.bias": (3,),
    "old.counter": (1,),
}
MODEL = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        for name in "qkv":
            setattr(self, name, nn.Linear(4, 4, bias=False))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))


def build():
    return Toy()
"""
BODIES = (
    '    ck.rename("body.**", "encoder.**")\n',
    '    ck.split("encoder.layers.{i}.qkv.weight", "encoder.layers.{i}.{q,k,v}.weight", dim=0)\n',
    '    ck.init("scale", shape=(3,), value=init.ones())\n    ck.drop("old.**", reason="idle")\n',
)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.out)
        return data


@dataclass(frozen=True)
class Toy:
    """A project in a folder of its own."""

    root: Path

    def run(self, *arguments: object, env: Mapping[str, str] | None = None, **more: Any) -> Ran:
        """The command, in the folder of the project."""
        done = subprocess.run(
            command(*arguments),
            cwd=more.pop("cwd", self.root),
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        path = os.pathsep.join(
            [*((extra or {}).get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
        )
        kept = {"XDG_RUNTIME_DIR": str(self.root / ".run"), "PYTHONPATH": path.strip(os.pathsep)}
        return {**os.environ, "COLUMNS": "80", **(extra or {}), **kept}

    def script(self, number: int, name: str, body: str, **literals: object) -> Path:
        """Add a script; it revises the one before unless told otherwise."""
        path = self.root / "migrations" / f"{number:04d}_{name}.py"
        values = {"revision": f"{number:08x}ee", "revises": IDS[-1], "api": 1, **literals}
        lines = [f'"""Do {name}."""', "", "from ckmigrate import init", ""]
        lines += [f"{key} = {value!r}" for key, value in values.items()]
        path.write_text("\n".join([*lines, "", "", "def upgrade(ck):", body or "    pass\n"]))
        return path

    def checkpoint(self, name: str = "old.safetensors", **changes: Any) -> Path:
        """A safetensors file at the base."""
        path = self.root / name
        path.write_bytes(safetensors({**BASE, **changes}))
        return with_room(path)

    def files(self) -> dict[str, str]:
        """Every file by its digest, those of the project's own folders left out."""
        found = (path for path in sorted(self.root.iterdir()) if path.is_file())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ckmigrate", *map(str, arguments)]


def safetensors(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a file of float32 tensors; their values count upwards."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, shape in shapes.items():
        size = TensorSpec(DType.F32, tuple(shape)).nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + size],
        }
        data += bytes((len(data) + i) % 251 for i in range(size))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def make_toy(root: Path, *, scripts: int = 3, snapshot: bool = True) -> Toy:
    """The project, with its first scripts."""
    root.mkdir(parents=True, exist_ok=True)
    toy = Toy(root)
    (root / ".run").mkdir(mode=0o700)
    (root / "ckmigrate.toml").write_text('name = "toy"\nmodel = "toy_model:build"\n')
    (root / "toy_model.py").write_text(MODEL)
    base = root / "migrations" / "schema" / "base"
    base.mkdir(parents=True)
    names = ("call_it_encoder", "split_qkv", "scale_the_head")
    for number, (name, body) in enumerate(list(zip(names, BODIES, strict=True))[:scripts], 1):
        parent = IDS[number - 2] if number > 1 else None
        release = {"release": f"1.{number}"} if number != 2 else {}
        toy.script(number, name, body, revision=IDS[number - 1], revises=parent, **release)
    if snapshot:
        schema = Schema({n: TensorSpec(DType.F32, shape) for n, shape in BASE.items()})
        (base / "default.json").write_text(render_snapshot(Snapshot(schema, (), "default")))
    return toy


def slowed(folder: Path, body: str) -> dict[str, str]:
    """An environment in which `ckmigrate.execute.syscalls` is changed before the command starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"import time, pathlib\nfrom ckmigrate.execute import syscalls\n{body}\n"
    )
    return {"PYTHONPATH": str(folder)}
