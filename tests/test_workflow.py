"""Five refactors of the example project, each drafted, committed and run on the 1.0 checkpoint.

The copy begins at release 1.4, where the projections of the attention are still apart. Each is an
edit of model.py as a person makes it; together they keep what the model computes.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from examples.digits.evaluate import CHECKPOINT, load, logits, state_dict_of
from tests.cli_inside import Inside
from tests.cli_project import ROOT, Toy

_CONFIG = '[tool.ckmigrate]\nname = "digits"\nmodel = "examples.digits.model:build"\n'
_AT_1_4 = 13


@dataclass(frozen=True)
class Refactor:
    """An edit of model.py, and what the words and the script about it must hold."""

    name: str
    edit: Callable[[str], str]
    check: str
    call: str
    accept: tuple[str, ...] = ()


def _replace(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def rename_a_module(text: str) -> str:
    return _replace(text, ("self.neck", "self.projector"))


def fuse_three_projections(text: str) -> str:
    apart = re.compile(r"        self\.q = .*\n        self\.k = .*\n        self\.v = .*\n")
    fused = "        self.qkv = nn.Linear(DIM, DIM + 2 * KV_DIM)\n"
    parts = "torch.split(self.qkv(x), [DIM, KV_DIM, KV_DIM], dim=-1)"
    assert apart.search(text)
    return _replace(apart.sub(fused, text), ("(self.q(x), self.k(x), self.v(x))", parts))


def add_a_layer(text: str) -> str:
    line = "        self.adapter = Adapter()\n"
    return _replace(
        text,
        (line, f"{line}        self.ls3 = LayerScale()\n"),
        ("self.adapter(x)", "self.ls3(self.adapter(x))"),
    )


def resize_the_classifier(text: str) -> str:
    return _replace(text, ("EXPERTS, CLASSES = 32, 2, 12, 10", "EXPERTS, CLASSES = 32, 2, 12, 12"))


def move_everything_under_a_prefix(text: str) -> str:
    whole = """class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.backbone(images)
        return logits


def build()"""
    return _replace(text, ("class Digits(", "class Backbone("), ("def build()", whole))


REFACTORS = (
    Refactor(
        "rename a module",
        rename_a_module,
        "projector.fc1.weight",
        'ck.rename("neck.**", "projector.**")',
    ),
    Refactor(
        "fuse three projections",
        fuse_three_projections,
        "encoder.blocks.{0,1}.attn.qkv.weight",
        "ck.concat(",
        ("--accept", "all"),
    ),
    Refactor("add a layer", add_a_layer, "ls3.gamma", "value=init.ones())", ("--no-input",)),
    Refactor(
        "resize the classifier",
        resize_the_classifier,
        "final_conv.1.weight is [10,32], the model wants [12,32]",
        "ck.resize(",
        ("--accept", "all"),
    ),
    Refactor(
        "move everything under a prefix",
        move_everything_under_a_prefix,
        "backbone.",
        'ck.rename("**", "backbone.**")',
        ("--no-input",),
    ),
)


def git(folder: Path, *arguments: str) -> str:
    quiet = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *quiet, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The example at release 1.4, in a git repository of its own."""
    root = tmp_path / "digits"
    package = root / "examples" / "digits"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    shutil.copy(ROOT / "examples/digits/history/v1_4.py", package / "model.py")
    shutil.copytree(ROOT / "migrations", root / "migrations", ignore=_later)
    (root / "pyproject.toml").write_text(_CONFIG)
    (root / ".run").mkdir(mode=0o700)
    (root / ".gitignore").write_text(".run/\n")
    inside = Inside(Toy(root), monkeypatch, "examples")
    (root / "migrations/history.lock").unlink()
    assert inside.run("lock").code == 0
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "Release 1.4")
    return inside


def _later(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name[:4].isdigit() and int(name[:4]) > _AT_1_4] + [
        name for name in names if name == "__pycache__"
    ]


def test_five_refactors_from_edit_to_migrated_checkpoint(project: Inside, tmp_path: Path) -> None:
    model = project.root / "examples" / "digits" / "model.py"
    for number, refactor in enumerate(REFACTORS):
        model.write_text(refactor.edit(model.read_text()))
        failed = project.run("check")
        assert failed.code == 1, refactor.name
        assert refactor.check in failed.out, failed.out
        assert "ckmigrate revision --autogenerate" in failed.out
        words = ["revision", "--autogenerate", "-m", refactor.name.capitalize()]
        if number == 0:
            told = project.talk(["a\n"])
            assert told.code == 0, told.screen
        else:
            ran = project.run(*words, *refactor.accept)
            assert ran.code == 0, f"{refactor.name}: {ran.out}{ran.err}"
        passed = project.run("check")
        assert passed.code == 0, passed.out
        added = git(project.root, "status", "--porcelain", "-uall").splitlines()
        changed = sorted(line[3:] for line in added)
        assert changed[0] == "examples/digits/model.py"
        assert changed[-2:] == ["migrations/history.lock", "migrations/schema/default.json"]
        (script,) = changed[1:-2]
        text = (project.root / script).read_text()
        assert refactor.call in text, text
        git(project.root, "add", "-A")
        git(project.root, "commit", "-qm", refactor.name)
    out = tmp_path / "today.pt"
    ran = project.run("upgrade", CHECKPOINT, "-o", out)
    assert ran.code == 0, ran.err
    assert project.run("verify", out).code == 0
    old = load(CHECKPOINT, "v1_0")
    with torch.no_grad():
        same = (logits(old)[:, :10] - logits(loaded(model, out))[:, :10]).abs().max().item()
    assert same < 1e-4


def loaded(source: Path, checkpoint: Path) -> torch.nn.Module:
    """The model that the edited file builds, with the migrated weights."""
    spec = importlib.util.spec_from_file_location("edited_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built: torch.nn.Module = module.build()
    built.load_state_dict(state_dict_of(checkpoint), strict=True)
    return built.eval()
