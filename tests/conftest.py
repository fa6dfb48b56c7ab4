"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli_project import Toy, make_toy


@pytest.fixture(autouse=True, scope="session")
def signals_of_a_terminal() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and `nohup` with hang-ups:
    every process that a test starts would inherit that, and wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A small project with three migrations, in an empty folder."""
    return make_toy(tmp_path / "toy")
