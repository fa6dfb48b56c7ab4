"""docs/cookbook.md is what docs/make_cookbook.py makes of the recipes."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from types import ModuleType

import pytest

from tests.cookbook.recipe import ROOT


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cookbook", ROOT / "docs/make_cookbook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(maker: ModuleType) -> None:
    written = maker.PAGE.read_text(encoding="utf-8").splitlines()
    made = maker.page().splitlines()
    changes = list(difflib.unified_diff(written, made, "docs/cookbook.md", "recipes", lineterm=""))
    assert not changes, "run: python docs/make_cookbook.py\n" + "\n".join(changes[:20])


def test_every_recipe_is_on_the_page(maker: ModuleType) -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    for path in maker.TESTS.glob("test_[0-9]*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring is not None
        assert f"## {docstring.splitlines()[0]}\n" in page
        assert f"../tests/cookbook/{path.name}" in page


def test_no_two_recipes_share_a_revision() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests/cookbook").glob("*.py")]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("revision = ")]
    assert len(lines) > 20
    assert len(lines) == len(set(lines))
