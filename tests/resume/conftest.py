"""The project that most tests of this folder upgrade with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.networks import SCRIPT, New, Old
from tests.resume.project import Project, project_of
from tests.resume.training import state


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return project_of(tmp_path / "project", monkeypatch, New, SCRIPT, state(Old))
