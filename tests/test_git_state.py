"""What git is in the middle of, read off the files that git keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.git_state import GitState, read_git_state


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "doing", "local", "step"),
    [
        ("MERGE_HEAD", "git merge", "ours", "git commit"),
        ("rebase-merge", "git rebase", "theirs", "git rebase --continue"),
        ("rebase-apply", "git rebase", "theirs", "git rebase --continue"),
        ("CHERRY_PICK_HEAD", "git cherry-pick", "theirs", "git cherry-pick --continue"),
    ],
)
def test_each_state(repository: Path, name: str, doing: str, local: str, step: str) -> None:
    (repository / ".git" / name).touch()
    state = read_git_state(repository / "deep" / "er")
    assert state is not None
    assert (state.doing, state.local, state.next_step) == (doing, local, step)


def test_a_rebase_that_stops_at_a_merge_is_a_rebase(repository: Path) -> None:
    (repository / ".git" / "MERGE_HEAD").touch()
    (repository / ".git" / "rebase-merge").mkdir()
    assert read_git_state(repository) == GitState("git rebase", "theirs")


def test_a_worktree_has_its_state_elsewhere(repository: Path) -> None:
    place = repository / ".git" / "worktrees" / "w"
    place.mkdir(parents=True)
    (place / "MERGE_HEAD").touch()
    (repository / "deep" / ".git").write_text("gitdir: ../.git/worktrees/w\n")
    assert read_git_state(repository / "deep") == GitState("git merge", "ours")
    assert read_git_state(repository) is None


def test_outside_of_a_repository_there_is_none(tmp_path: Path) -> None:
    assert read_git_state(tmp_path) is None
    (tmp_path / ".git").write_bytes(b"\xff")
    assert read_git_state(tmp_path) is None
