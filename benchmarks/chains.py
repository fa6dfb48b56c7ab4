"""The migrations: projects whose history does one kind of change, in one revision or in many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Chain", "Change", "write_project"]

Change = Literal["rename", "split", "transpose", "cast", "compute"]

_PROJ, _OUT = "attn.proj.weight", "attn.out.weight"


@dataclass(frozen=True, slots=True)
class Chain:
    """`revisions` scripts. Each renames every entry, and the last one also does the change."""

    change: Change
    revisions: int = 1

    @property
    def result(self) -> str:
        """What the names of the result begin with."""
        return f"step{self.revisions - 1}"


def write_project(folder: Path, chain: Chain) -> Path:
    """Write the project; the path of its configuration."""
    scripts = folder / "migrations"
    scripts.mkdir(parents=True)
    for number in range(chain.revisions):
        path = scripts / f"{number + 1:04d}_step.py"
        path.write_text(_script(chain, number), encoding="utf-8")
    config = folder / "ckmigrate.toml"
    config.write_text('name = "benchmark"\n', encoding="utf-8")
    return config


def _script(chain: Chain, number: int) -> str:
    old = "transformer" if number == 0 else f"step{number - 1}"
    lines = [f'ck.rename("{old}.**", "step{number}.**")']
    if number == chain.revisions - 1:
        lines += _change(chain.change, f"{chain.result}.h.{{i}}")
    parent = _revision(number - 1) if number else None
    head = [f'"""Step {number}."""', f"revision = {_revision(number)!r}", f"revises = {parent!r}"]
    body = ["api = 1", "", "", "def upgrade(ck):", *(f"    {line}" for line in lines)]
    return "\n".join([*head, *body]) + "\n"


def _change(change: Change, layer: str) -> list[str]:
    match change:
        case "split":
            return [
                f'ck.split("{layer}.attn.qkv.weight", "{layer}.attn.{{q,k,v}}.weight", dim=0)',
                f'ck.concat("{layer}.attn.{{k,v}}.weight", "{layer}.attn.kv.weight", dim=0)',
            ]
        case "transpose":
            return [f'ck.transpose("{layer}.attn.{{p}}.weight", 0, 1)']
        case "cast":
            return [f'ck.cast("{layer}.**", "bfloat16")']
        case "compute":
            return [f'ck.compute("{layer}.{_PROJ}", "{layer}.{_OUT}", lambda t: t.exp())']
        case "rename":
            return []


def _revision(number: int) -> str:
    return f"{0xABC0000000 + number:010x}"
