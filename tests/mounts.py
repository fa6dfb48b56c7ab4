"""A file system of the test's own, or a skip where none can be had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, *arguments: str | Path) -> Iterator[Path]:
    """`mount ARGUMENTS PLACE` as long as the context lasts."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    place.mkdir()
    done = subprocess.run(["mount", *arguments, place], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not os.path.ismount(place):
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[:200]}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
