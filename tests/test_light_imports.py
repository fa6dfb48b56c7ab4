"""What a command imports, seen in a fresh process: torch only where numbers are computed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.cli_project import BASE, Toy
from tests.dcp_folders import handmade, rows

_HEAVY = ("torch", "numpy", "rich", "packaging", "safetensors", "click.testing")
_TO_2 = ("--to", "2", "--no-model")
_PROBE = (
    "import sys; from ckmigrate.cli import main; code = main(sys.argv[1:]); "
    f"print(code, *(n for n in {_HEAVY!r} if n in sys.modules), file=sys.stderr)"
)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["upgrade", "--help"], set()),
        (["history"], {"packaging"}),
        (["heads", "--json"], {"packaging"}),
        (["show", "head"], {"packaging"}),
        (["blame", "scale"], {"packaging"}),
        (["squash", ":", "--dry-run"], {"packaging"}),
        (["prune", "--dry-run"], {"packaging"}),
        (["export", ":"], {"packaging"}),
        (["current", "old.safetensors"], {"packaging"}),
        (["identify", "old.safetensors"], {"packaging"}),
        (["inspect", "old.safetensors"], set()),
        (["diff", "old.safetensors", "base"], {"packaging"}),
        (["plan", "old.safetensors"], {"packaging"}),
        (["check", "--no-model"], {"packaging"}),
        (["upgrade", "old.safetensors", "-o", "new.safetensors", "--no-model"], {"packaging"}),
        (["upgrade", "old.safetensors", "-o", "new.pt", "--no-model"], {"packaging"}),
        (["upgrade", "old.safetensors", "--in-place", "--fast", *_TO_2], {"packaging"}),
        (["stamp", "old.safetensors", "base", "--in-place", "--fast", "--no-model"], {"packaging"}),
        (["stamp", "old.safetensors", "base", "-o", "b.safetensors", "--no-model"], {"packaging"}),
        (["verify", "old.safetensors", "--no-model"], {"packaging"}),
        (["revision", "-m", "More"], {"packaging"}),
        (["inspect", "dcp"], set()),
        (["plan", "dcp"], {"packaging"}),
        (["upgrade", "dcp", "-o", "new-dcp", "--no-model"], {"packaging"}),
        (["upgrade", "dcp", "-o", "new.pt", "--no-model"], {"packaging"}),
        (
            ["upgrade", "old.safetensors", "-o", "d", "--to-format", "dcp", "--no-model"],
            {"packaging"},
        ),
    ],
)
def test_a_command_imports_nothing_heavy(toy: Toy, arguments: list[str], allowed: set[str]) -> None:
    toy.checkpoint()
    if "dcp" in arguments:
        tensors = {name: rows(torch.zeros(shape), *shape[:1]) for name, shape in BASE.items()}
        handmade(toy.root / "dcp", tensors)
    code, *found = _probe(toy, arguments)
    assert code == "0"
    assert set(found) <= allowed


def test_the_strict_load_does_import_torch(toy: Toy) -> None:
    toy.checkpoint()
    code, *found = _probe(toy, ["plan", "old.safetensors", "--with-model"])
    assert code == "0"
    assert "torch" in found


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("pass", set()),
        ("ckmigrate.CkmigrateError", set()),
        ("ckmigrate.tag()", {"packaging"}),
        ("ckmigrate.Stamp().state_dict()", {"packaging"}),
        ("str(ckmigrate.plan('old.safetensors'))", {"packaging"}),
        ("ckmigrate.upgrade('old.safetensors', 'new.pt', no_model=True)", {"packaging"}),
    ],
)
def test_the_python_interface_imports_nothing_heavy(toy: Toy, code: str, allowed: set[str]) -> None:
    toy.checkpoint()
    probe = f"import sys, ckmigrate; {code}; print(*(n for n in {_HEAVY!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=toy.root,
        env=toy.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= allowed


def _probe(toy: Toy, arguments: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments],
        cwd=toy.root,
        env=toy.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()[-1].split()
