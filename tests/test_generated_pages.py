"""The generated pages are what their generators say now, and leave nothing out."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest

from ckmigrate import errors
from ckmigrate.checkpoint import Checkpoint
from tests.pages import ROOT

DOCS = ROOT / "docs"


def generator(name: str) -> dict[str, Any]:
    return runpy.run_path(str(DOCS / f"make_{name}.py"))


@pytest.mark.parametrize("name", ["commands", "errors", "operations"])
def test_the_page_is_what_its_generator_says(name: str) -> None:
    # In a process of its own: the help texts depend on the width of the terminal.
    path = DOCS / f"make_{name}.py"
    script = f"import runpy; print(runpy.run_path({str(path)!r})['render'](), end='')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert result.stdout == written, "run: make docs"


def test_every_code_in_the_source_is_on_the_page_with_a_message() -> None:
    files = (ROOT / "ckmigrate").rglob("*.py")
    used = {c for f in files for c in re.findall(r"\"(CKM\d{3})\"", f.read_text(encoding="utf-8"))}
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(CKM\d{3})` \| (.+) \|$", page, re.MULTILINE))
    assert used == set(rows)
    assert all(re.search(r"\w{2}", said) for said in rows.values())


def test_a_code_has_one_message_or_a_meaning_that_its_messages_share() -> None:
    made = generator("errors")
    places = made["raised"]()
    several = {p.code for p in places if len(made["messages"](p.code, places)) > 1}
    assert several == set(made["MEANINGS"]), "say in MEANINGS what they have in common, or split"
    meanings = list(made["MEANINGS"].values())
    assert len(set(meanings)) == len(meanings)


def test_two_codes_do_not_share_a_message() -> None:
    made = generator("errors")
    places, codes = made["raised"](), defaultdict(set)
    for place in places:
        for text in made["messages"](place.code, [place]):
            codes[text].add(place.code)
    assert {text for text, found in codes.items() if len(found) > 1} == set()


def test_every_code_that_is_mentioned_exists() -> None:
    made = generator("errors")
    known = {place.code for place in made["raised"]()}
    told = [*(ROOT / "ckmigrate").rglob("*.py"), *DOCS.glob("*.md"), *ROOT.glob("*.md")]
    for path in told:
        mentioned = set(re.findall(r"\bCKM[2-7]\d{2}\b", path.read_text(encoding="utf-8")))
        assert mentioned <= known, path


def test_the_sections_of_the_page_are_the_classes_of_errors() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    classes = {c.exit_code: c.__name__ for c in errors.CkmigrateError.__subclasses__()}
    sections = re.findall(r"^## Exit code (\d): (\w+)$", page, re.MULTILINE)
    assert {int(code): name for code, name in sections} == classes


def test_every_method_of_a_checkpoint_is_on_the_page_of_operations() -> None:
    made = generator("operations")
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    for name in set(made["public"](Checkpoint)) - made["UNDOCUMENTED"]:
        assert f"### `ck.{name}`\n" in page
