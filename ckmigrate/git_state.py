"""What git is in the middle of, as its own files tell; git itself is never run.

During a merge the side that git calls "ours" is the branch that you are on. A rebase, a cherry-pick
and `git stash pop` put your commits on something else, so there "ours" is that, and "theirs" is
your work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["GitState", "read_git_state"]

_UNDER_WAY = (
    ("rebase-merge", "git rebase", "theirs"),
    ("rebase-apply", "git rebase", "theirs"),
    ("CHERRY_PICK_HEAD", "git cherry-pick", "theirs"),
    ("MERGE_HEAD", "git merge", "ours"),
)
"""What git keeps while it waits for conflicts to be resolved. A rebase that stops at a merge has
both, so that it comes first."""


@dataclass(frozen=True, slots=True)
class GitState:
    """Something that git has not finished.

    doing  the command, "git merge"
    local  which side of a conflict holds the work that is to be put behind the other
    """

    doing: str
    local: Literal["ours", "theirs"]

    @property
    def next_step(self) -> str:
        """What finishes it, once conflicts are resolved."""
        return "git commit" if self.doing == "git merge" else f"{self.doing} --continue"


def read_git_state(folder: Path) -> GitState | None:
    """The state of the repository that a folder belongs to; None outside of one, or where git waits
    for nothing."""
    found = _git_folder(folder.resolve())
    for name, doing, local in _UNDER_WAY if found else ():
        if found is not None and (found / name).exists():
            return GitState(doing, "ours" if local == "ours" else "theirs")
    return None


def _git_folder(folder: Path) -> Path | None:
    for above in (folder, *folder.parents):
        place = above / ".git"
        if place.is_dir():
            return place
        if place.is_file():  # a worktree or a submodule
            return _pointed_to(place)
    return None


def _pointed_to(place: Path) -> Path | None:
    try:
        text = place.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return (place.parent / text.removeprefix("gitdir:").strip()).resolve()
