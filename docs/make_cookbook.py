"""Write docs/cookbook.md from the recipes in tests/cookbook, so that the page cannot lie.

    python docs/make_cookbook.py

A recipe's prose is the docstring of its test file, its script is the one that the tests run, and
its plan is what `ckmigrate plan` prints for a checkpoint of its old model.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "cookbook"
PAGE = ROOT / "docs" / "cookbook.md"

_COSTS = ("entries", "bytes", "torch")

HEAD = """\
# Cookbook

Changes that architectures go through, and the migration for each. Every script on this page is run
by a test: on a checkpoint that torch wrote from a trained old model, up to a strict load into the
new model, and back where there is a way back. Below each script stands what `ckmigrate plan` says
of it: the operations, then what they cost.

This page is made by `python docs/make_cookbook.py` from [tests/cookbook](../tests/cookbook); each
section links to the file with both models and the tests.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    modules = [_load(path) for path in sorted(TESTS.glob("test_[0-9]*.py"))]
    contents = "\n".join(f"- [{_title(m)}](#{_anchor(_title(m))})" for m in modules)
    return "\n".join([HEAD, contents, "", *map(_section, modules)])


def _load(path: Path) -> ModuleType:
    # Under the name that pytest gives it, so that a run of the tests imports it once.
    for folder in (str(TESTS), str(ROOT)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return importlib.import_module(path.stem)


def _title(module: ModuleType) -> str:
    return (module.__doc__ or "").splitlines()[0]


def _anchor(title: str) -> str:
    kept = [char for char in title.lower() if char.isalnum() or char in " -_"]
    return "".join(kept).replace(" ", "-")


def _section(module: ModuleType) -> str:
    prose = (module.__doc__ or "").split("\n", 1)[1].strip()
    link = f"[{module.__name__}.py](../tests/cookbook/{module.__name__}.py)"
    parts = [f"## {_title(module)}", prose, *_recipes(module), f"Both models and the tests: {link}"]
    return "\n\n".join(parts) + "\n"


def _recipes(module: ModuleType) -> Iterator[str]:
    from tests.cookbook.recipe import Recipe

    for recipe in vars(module).values():
        if isinstance(recipe, Recipe):
            if recipe.title:
                yield f"### {recipe.title}"
            yield f"```python\n{recipe.script.rstrip()}\n```"
            yield f"```text\n{_plan(recipe)}\n```"


def _plan(recipe: object) -> str:
    from tests.cookbook.recipe import Kitchen, Recipe

    assert isinstance(recipe, Recipe)
    with tempfile.TemporaryDirectory() as folder:
        kitchen = Kitchen(Path(folder) / "project", recipe)
        return _excerpt(kitchen.plan(kitchen.save(recipe.old())))


def _excerpt(plan: str) -> str:
    """The operations and what they cost, without the file's name and the model's."""
    _, *scripts, totals = plan.split("\n\n")
    operations = [line for script in scripts for line in script.splitlines()[1:]]
    costs = [line for line in totals.splitlines() if line.split()[0] in _COSTS]
    return textwrap.dedent("\n".join([*operations, "", *costs])).strip("\n")


if __name__ == "__main__":
    main()
