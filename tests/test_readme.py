"""The README is followed word for word: files written, commands run, output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REVISION = re.compile(r"\b[0-9a-f]{10}\b")


def blocks() -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


def session(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


def with_own_id(text: str, path: Path) -> str:
    """A script as somebody edits it: with the random id that it was created with."""
    found = REVISION.search(path.read_text(encoding="utf-8")) if path.exists() else None
    return text if found is None else REVISION.sub(found[0], text)


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder whose `ckmigrate` and `python` are this interpreter's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, arguments in {"ckmigrate": "-m ckmigrate ", "python": ""}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return folder


def test_following_the_readme_shows_what_it_shows(tmp_path: Path, bin_folder: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    compared = 0
    for kind, text in blocks():
        if kind == "python":
            path = project / text.splitlines()[0].removeprefix("# ")
            if not path.parent.is_dir():
                raise AssertionError(f"{path.parent} does not exist at this point of the page")
            path.write_text(with_own_id(text.split("\n", 1)[1], path), encoding="utf-8")
            continue
        for command, shown in session(text):
            result = subprocess.run(
                command,
                shell=True,
                cwd=project,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            printed, expected = (REVISION.sub("REVISION", t) for t in (result.stdout, shown))
            if result.returncode:
                assert printed.startswith(expected), printed
            else:
                assert printed == expected
            compared += 1
    assert compared == 9


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_page_of_commands_is_what_the_command_says() -> None:
    path = ROOT / "docs" / "make_commands.py"
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import runpy; print(runpy.run_path({str(path)!r})['render'](), end='')",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert result.stdout == written, "run: make docs"
