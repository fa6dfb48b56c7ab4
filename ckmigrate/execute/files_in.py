"""What is in a folder and in the folders below it, by relative name."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["files_in", "folders_in"]


def files_in(folder: Path) -> list[str]:
    """Files, and links whatever they lead to but a folder; those of one folder in order."""
    return [
        os.path.relpath(os.path.join(base, name), folder)
        for base, _, names in os.walk(folder)
        for name in sorted(names)
    ]


def folders_in(folder: Path) -> list[str]:
    """Folders, and links to folders; what those hold is not looked at."""
    return [
        os.path.relpath(os.path.join(base, name), folder)
        for base, names, _ in os.walk(folder)
        for name in sorted(names)
    ]
