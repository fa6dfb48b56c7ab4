"""What git knows of some files; a project need not be in git."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["commit_of", "uncommitted"]

_PATIENCE = 30
"""Seconds."""


def uncommitted(folder: Path, paths: Sequence[Path]) -> tuple[str, ...] | None:
    """The files whose content is not in the newest commit; None where there is no git."""
    if commit_of(folder) is None:
        return None
    kept = _git(folder, "ls-files", "-z", "--", *map(str, paths)) or ""
    changed = _git(
        folder, "diff", "--name-only", "-z", "--relative", "HEAD", "--", *map(str, paths)
    )
    known = {Path(name).name for name in kept.split("\0") if name}
    differing = {Path(name).name for name in (changed or "").split("\0") if name}
    return tuple(p.name for p in paths if p.name not in known or p.name in differing)


def commit_of(folder: Path) -> str | None:
    """The newest commit of the repository that a folder is in; None without git or a commit."""
    found = _git(folder, "rev-parse", "--verify", "HEAD")
    return found.strip() if found else None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
