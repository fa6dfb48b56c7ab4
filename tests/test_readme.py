"""The README is followed word for word: files written, commands run, output compared."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import ROOT, Reader, tools


def test_following_the_readme_shows_what_it_shows(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    assert Reader(project, tools(tmp_path / "bin")).follow(ROOT / "README.md") == 9


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
