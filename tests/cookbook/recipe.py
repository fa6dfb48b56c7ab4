"""What every recipe of the cookbook shares: a project on disk, and a model with a past.

Recipe   the old model, the new one and the migration between them; docs/make_cookbook.py
         prints its script and its plan
Kitchen  a project in a temporary folder that holds one recipe
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ckmigrate.errors import CkmigrateError
from ckmigrate.execute.commit import Destination
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import Project, find_project
from ckmigrate.report.plan_text import plan_text
from ckmigrate.revisions.graph import read_history
from ckmigrate.tagging import parse_tag

ROOT = Path(__file__).resolve().parents[2]
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One change of an architecture.

    title   what the variant is called on the page; "" where a page has one recipe only
    script  the whole migration script
    old     builds the model of the old checkpoints
    new     a function or class of a test module: the model of today
    params  [params] of the configuration
    """

    script: str
    old: Callable[[], nn.Module]
    new: Callable[[], nn.Module]
    title: str = ""
    params: Mapping[str, object] = field(default_factory=dict)


class Kitchen:
    """A project whose history is one recipe's script, or the scripts that are given."""

    def __init__(self, folder: Path, recipe: Recipe, *scripts: str) -> None:
        self.folder = folder
        self.recipe = recipe
        (folder / "migrations").mkdir(parents=True)
        for number, script in enumerate(scripts or (recipe.script,), start=1):
            (folder / "migrations" / f"{number:04}_recipe.py").write_text(script)
        (folder / "ckmigrate.toml").write_text(self._config())

    def _config(self) -> str:
        new = self.recipe.new
        folders = [str(ROOT / "tests" / "cookbook"), str(ROOT)]
        lines = [
            'name = "cookbook"',
            f'model = "{new.__module__}:{new.__name__}"',
            f"pythonpath = {folders}",
            "[params]",
            *(f"{name} = {value!r}" for name, value in self.recipe.params.items()),
        ]
        return "\n".join(lines) + "\n"

    @property
    def project(self) -> Project:
        return find_project(self.folder)

    def save(self, content: nn.Module | State, name: str = "old.pt") -> Path:
        """Save a state dict as its users do; the suffix chooses between torch and safetensors."""
        state = content.state_dict() if isinstance(content, nn.Module) else content
        path = self.folder / name
        if path.suffix == ".safetensors":
            save_file(dict(state), path)
        else:
            torch.save(state, path)
        return path

    def upgrade(self, path: Path, *, full_verify: bool = False) -> Path:
        """The upgraded file beside the old one, which has no tag: by the library."""
        request = Request(from_revision="base", full_verify=full_verify)
        return self._run(path, request, "up", f"new{path.suffix}")

    def upgrade_by_command(self, path: Path, *flags: str) -> Path:
        """The same by `ckmigrate upgrade` in a process of its own, flags added."""
        result = self.folder / f"new{path.suffix}"
        words = ["upgrade", path.name, "--from", "base", "-o", result.name, *flags]
        done = subprocess.run(
            [sys.executable, "-m", "ckmigrate", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert str(result.name) in done.stdout
        return result

    def downgrade(self, path: Path) -> Path:
        """The file one revision back."""
        return self._run(path, Request(to="-1"), "down", f"back{path.suffix}")

    def refusal(self, path: Path, *, down: bool = False, full_verify: bool = False) -> str:
        """The message of an upgrade, or of a downgrade, that is refused; "" where it is not."""
        try:
            self.downgrade(path) if down else self.upgrade(path, full_verify=full_verify)
        except CkmigrateError as error:
            return str(error)
        return ""

    def plan(self, path: Path) -> str:
        """What `ckmigrate plan` prints of an upgrade."""
        request = Request(from_revision="base")
        project = self.project
        prepared = prepare(project, read_history(project.migrations), path, request)
        return plan_text(prepared, width=90, full=False)

    def pending(self, path: Path) -> list[str]:
        """The revisions that an upgrade of this file would apply."""
        request = Request(from_revision=None if open_checkpoint(path).tag else "base")
        project = self.project
        prepared = prepare(project, read_history(project.migrations), path, request)
        return [traced.script.id for traced in prepared.plan.trace.scripts]

    def revision(self, path: Path) -> str | None:
        """The revision in the tag of a file; None at the base."""
        text = open_checkpoint(path).tag
        assert text is not None
        return parse_tag(text).revision

    def _run(
        self, path: Path, request: Request, direction: Literal["up", "down"], name: str
    ) -> Path:
        project = self.project
        history = read_history(project.migrations)
        prepared = prepare(project, history, path, request, direction=direction)
        carry_out(prepared, Destination(self.folder / name))
        return self.folder / name

    def load(self, path: Path) -> nn.Module:
        """Today's model with the values of a file, loaded strictly, in evaluation mode."""
        model = self.recipe.new()
        model.load_state_dict(read(path), strict=True)
        return model.eval()


def trained(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """The model after three steps of SGD: no weight, statistic or counter is where it began."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        # Steps of a bounded length: a deep network would diverge, and NaN equals nothing.
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    return model.eval()


def alike(one: nn.Module, other: nn.Module, *inputs: Tensor) -> bool:
    """Whether two models answer the same but for the order of additions.

    They are asked in double precision, where that order shows in the last digits only, so that the
    tolerance need not depend on the machine.
    """
    doubles = [tensor.double() for tensor in inputs]
    first, second = (model.double()(*doubles) for model in (one, other))
    for model in (one, other):
        model.float()
    return torch.allclose(first, second, rtol=1e-12, atol=1e-12)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, as its users read them."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def same_bytes(one: State, other: State) -> bool:
    """Whether both hold the same names, dtypes, shapes and bits."""
    return one.keys() == other.keys() and all(_bits(one[n]) == _bits(other[n]) for n in one)


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return tensor.dtype, tensor.shape, raw.numpy().tobytes()
