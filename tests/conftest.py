"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_project import Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A small project with three migrations, in an empty folder."""
    return make_toy(tmp_path / "toy")
