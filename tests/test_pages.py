"""Every page of the documentation is followed: its blocks are run, or are known not to be."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from ckmigrate.cli.app import app
from tests.pages import ROOT, Reader, blocks, commands, tools

DOCS = ROOT / "docs"
GENERATED = {"commands.md", "cookbook.md", "errors.md", "operations.md"}
"""Pages that their generators hold; the scripts of the cookbook are run by tests/cookbook."""
PAGES = sorted(p for p in DOCS.glob("*.md") if p.name not in GENERATED)

NOT_RUN = {
    "autogenerate.md": 4,
    "batch.md": 3,
    "branches.md": 6,
    "checking.md": 5,
    "checkpoints.md": 5,
    "migrations.md": 4,
    "performance.md": 1,
    "python.md": 4,
    "squash.md": 1,
    "testing.md": 3,
}
"""How many blocks of a page are commands for other files, excerpts or outputs."""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_blocks_that_are_not_run_are_counted(page: Path) -> None:
    idle = [block for block in blocks(page) if not block.runs]
    assert len(idle) == NOT_RUN.get(page.name, 0)
    assert all(block.kind for block in idle), "every block names its language"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.runs for b in blocks(p))], ids=str)
def test_following_a_page_shows_what_it_shows(page: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    assert Reader(project, tools(tmp_path / "bin")).follow(page) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_excerpts_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "python":
            ast.parse(block.text)
        elif block.kind == "toml":
            tomllib.loads(block.text)


def test_commands_that_are_not_run_are_understood() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "sh":
                for arguments in commands(block.text):
                    understood(arguments)
                    seen += 1
    assert seen > 10


def understood(arguments: list[str]) -> None:
    """UsageError where there is no such command, option or argument."""
    root = click.Context(app, info_name="ckmigrate")
    name, *rest = arguments
    command = app.get_command(root, name)
    assert command is not None, f"there is no command {name}"
    with command.make_context(name, rest, parent=root):
        pass


@pytest.mark.parametrize("command", [["gone"], ["plan", "--gone", "x"]])
def test_a_command_that_does_not_exist_is_noticed(command: list[str]) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        understood(command)


def test_every_page_is_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w-]+)$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == listed


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="the site's generator is not installed; CI runs `make site`",
)
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html"]
    subprocess.run([*build, str(DOCS), str(tmp_path)], check=True, cwd=ROOT)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    fetched = re.compile(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"(?:https?:)?//")
    assert not [p.name for p in pages if fetched.search(p.read_text(encoding="utf-8"))]
    assert not [
        p
        for p in tmp_path.rglob("*.css")
        if re.search(r"(url\(|@import)\W*(https?:)?//", p.read_text())
    ]
