"""Two branches of the example project, brought together by git and by `ckmigrate rebase`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ckmigrate.locking import write_lock_and_snapshots
from ckmigrate.opened import replays
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history
from tests.cli_project import ROOT, Ran, Toy

DIGITS = ROOT / "examples" / "digits" / "checkpoints" / "digits-1.0.pt"
HEAD = read_history(ROOT / "migrations").heads[0]
SCRIPT = '''"""{message}."""

from ckmigrate import Checkpoint

revision = "{revision}"
revises = "{revises}"  # ours
api = 1


def upgrade(ck: Checkpoint) -> None:
    ck.rename("{old}.**", "{new}.**")
'''


class Clone:
    """A copy of the example in a repository of its own."""

    def __init__(self, folder: Path) -> None:
        self.toy = Toy(folder)
        self.migrations = folder / "migrations"
        shutil.copytree(ROOT / "migrations", self.migrations, ignore=_caches)
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=_caches)
        config = 'name = "digits"\nmodel = "examples.digits.model:build"\npythonpath = ["."]\n'
        (folder / "ckmigrate.toml").write_text(config)
        (folder / ".run").mkdir(mode=0o700)
        (folder / ".gitignore").write_text(".run/\n__pycache__/\n*.pyc\n")
        self.git("init", "-q", "-b", "main")
        self.commit("base")

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
        env = {**os.environ, **dict.fromkeys(names, "x"), "GIT_CONFIG_GLOBAL": os.devnull}
        env |= {"GIT_EDITOR": "true", "GIT_CONFIG_SYSTEM": os.devnull}
        return subprocess.run(
            ["git", *arguments],
            cwd=self.toy.root,
            env=env,
            capture_output=True,
            text=True,
            check=check,
        )

    def run(self, *arguments: object) -> Ran:
        return self.toy.run(*arguments, env={"PYTHONPATH": str(self.toy.root)})

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def revise(self, number: int, revision: str, revises: str, old: str, new: str) -> None:
        """A script that renames a module, the model that goes with it, and the lock."""
        message = f"Call {old} {new}"
        text = SCRIPT.format(message=message, revision=revision, revises=revises, old=old, new=new)
        (self.migrations / f"{number:04d}_{new.replace('.', '_')}.py").write_text(text)
        model = self.toy.root / "examples" / "digits" / "model.py"
        attribute, name = (f"self.{path.rpartition('.')[2]}" for path in (old, new))
        source = model.read_text()
        for end in (" = ", "("):
            assert f"{attribute}{end}" in source
            source = source.replace(f"{attribute}{end}", f"{name}{end}")
        model.write_text(source)
        project = find_project(self.toy.root)
        history = read_history(self.migrations)
        write_lock_and_snapshots(project, history, replays(project, history, {}))
        self.commit(message)


def _caches(_: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """On `feature`, which renamed two modules since `main` renamed a third."""
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone")
    clone.git("checkout", "-q", "-b", "feature")
    clone.revise(17, "aa" * 5, HEAD, "backbone.neck", "backbone.mixer")
    clone.revise(18, "bb" * 5, "aa" * 5, "backbone.calibration", "backbone.scaling")
    clone.git("checkout", "-q", "main")
    clone.revise(17, "cc" * 5, HEAD, "front.resize", "front.scale")
    clone.git("checkout", "-q", "feature")
    return clone


def assert_whole(clone: Clone, *, model: bool = False) -> None:
    """One head, which is today's model, and the oldest release gets there."""
    without = () if model else ("--no-model",)
    checked = clone.run("check", *without)
    assert (checked.code, "fits model" in checked.out) == (0, model), checked
    new = clone.toy.root / ".run" / "new.pt"
    upgraded = clone.run("upgrade", DIGITS, "-o", new, "--optimizer", "drop", *without)
    assert upgraded.code == 0, upgraded.err
    names = [script.path.name for script in read_history(clone.migrations).order]
    assert names[16:] == [
        "0017_front_scale.py",
        "0018_backbone_mixer.py",
        "0019_backbone_scaling.py",
    ]
    assert clone.git("status", "--porcelain").stdout == ""


def test_a_merge_that_conflicts_in_the_lock_is_resolved(clone: Clone) -> None:
    merged = clone.git("merge", "main", check=False)
    assert "CONFLICT (content): Merge conflict in migrations/history.lock" in merged.stdout
    assert clone.run("check", "--no-model").code == 3
    ran = clone.run("rebase")
    assert ran.code == 0, ran.err
    assert f"put behind {'cc' * 5}" in ran.out
    assert "next: git add migrations, then git commit" in ran.out
    clone.git("add", "migrations")
    clone.git("commit", "-qm", "merge")
    assert_whole(clone, model=True)


def test_a_git_rebase_is_resolved_commit_by_commit(clone: Clone) -> None:
    """Here "ours" is the upstream; the second commit revises what the first became."""
    stopped = clone.git("rebase", "main", check=False)
    rounds = 0
    while stopped.returncode:
        rounds += 1
        assert rounds <= 2
        ran = clone.run("rebase")
        assert ran.code == 0, ran.err
        assert "then git rebase --continue" in ran.out
        clone.git("add", "migrations")
        stopped = clone.git("rebase", "--continue", check=False)
    assert rounds == 2
    assert_whole(clone)


@pytest.mark.slow
def test_after_a_merge_into_main_the_named_side_moves(clone: Clone) -> None:
    clone.git("checkout", "-q", "main")
    assert clone.git("merge", "feature", check=False).returncode
    ran = clone.run("rebase", "--onto", "cc" * 5)
    assert ran.code == 0, ran.err
    clone.git("add", "migrations")
    clone.git("commit", "-qm", "merge")
    assert_whole(clone)
