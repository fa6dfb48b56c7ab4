"""How Sphinx makes the site of docs/: `make site`. Nothing is fetched, then or by a reader."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

project = "ckmigrate"
extensions = ["myst_parser"]
exclude_patterns = ["*.py"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "ckmigrate"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
highlight_language = "none"

_PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/digits/README.md": "example.md",
}
"""Pages that stand elsewhere in the repository, and the page of the site that includes each."""

_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")


def site_links(text: str, folder: Path) -> str:
    """The text of a page in `folder`, its links leading to pages of the site.

    A link to a file that is no page, such as a test, keeps its words and leads nowhere.
    """

    def site_link(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        inside = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        page = _PAGES.get(inside, inside.removeprefix("docs/"))
        known = inside in _PAGES or (target.parent == ROOT / "docs" and target.suffix == ".md")
        missing = not target.exists()  # left as it is, so that Sphinx says so
        return f"[{link[1]}]({page}{link[3] or ''})" if known else link[0] if missing else link[1]

    return _LINK.sub(site_link, text)


def _page(app: Sphinx, name: str, content: list[str]) -> None:
    content[0] = site_links(content[0], ROOT / "docs")


def _included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:
    content[0] = site_links(content[0], (ROOT / "docs" / path).resolve().parent)


def setup(app: Sphinx) -> None:
    app.connect("source-read", _page)
    app.connect("include-read", _included)
