"""The project that upgrades what was trained, by the real command.

project = project_of(folder, New, SCRIPT)
upgraded = project.upgrade(path)         `ckmigrate upgrade`, in the process of the test
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor, nn

from tests.cli_inside import Inside
from tests.cli_project import ROOT, Ran, Toy
from tests.projects import Zoo

__all__ = ["Project", "project_of"]


@dataclass(frozen=True)
class Project:
    """A project in a folder, and its command."""

    inside: Inside
    zoo: Zoo

    @property
    def folder(self) -> Path:
        return self.zoo.folder

    def upgrade(self, path: Path, *options: object, out: str = "new.pt") -> Path:
        """The upgraded file; the command must succeed."""
        ran = self.run("upgrade", path, "-o", self.folder / out, *options)
        assert ran.code == 0, ran.err
        return self.folder / out

    def refused(self, path: Path, *options: object) -> str:
        """What the command says where it refuses; it must write nothing."""
        ran = self.run("upgrade", path, "-o", self.folder / "refused.pt", *options)
        assert ran.code == 5, (ran.code, ran.out, ran.err)
        assert not (self.folder / "refused.pt").exists()
        return ran.err

    def run(self, *arguments: object) -> Ran:
        return self.inside.run(*arguments)

    def process(self, *arguments: object) -> Ran:
        """The same in a process of its own."""
        return self.inside.toy.run(*arguments)


def project_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    new: Callable[[], nn.Module],
    script: str,
    base: Mapping[str, Tensor],
    config: str = "",
) -> Project:
    """A history of one script that leads to the model `new`, a name of an importable module.

    base  the state dict that the history begins with
    """
    folder.mkdir(exist_ok=True)
    (folder / ".run").mkdir(mode=0o700)
    model = f"from {new.__module__} import {new.__name__} as build\n"
    zoo = Zoo(folder, script, model=model, base=dict(base), config=config)
    if str(ROOT) not in sys.path:
        monkeypatch.syspath_prepend(str(ROOT))
    return Project(Inside(Toy(folder), monkeypatch, package="nothing"), zoo)
