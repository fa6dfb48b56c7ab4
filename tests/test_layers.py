"""Imports run one way, and what is heavy is imported only where it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ckmigrate"

LAYERS = (
    "errors lazily",
    "journal names names.* spec fold settings formats.tree formats.base formats.plain",
    "scalar",
    "expr",
    "step",
    "init module_paths formats.*",
    "meta",
    "operations.*",
    "call_text params ties",
    "recorder symbolic",
    "checkpoint",
    "revisions.*",
    "training.*",
    "git_state name_order project snapshot tagging",
    "lower compile same_expr",
    "planning contents strict target live_module target_optimizer signature function_text digest",
    "lookalikes identify execute.*",
    "file_set text_file",
    "committed_head locking",
    "checking",
    "uncollected opened training.carry_optimizer training.carry_state",
    "loaded_tensors find_target case carry goal trace_down remarks placement prepare",
    "strictly_loads run_script_verifies verify",
    "output output_torch leaves_dcp output_dcp output_companions output_folder places",
    "commuting migrate rebasing patch patch_dcp patch_folder patch_safetensors patch_torch",
    "fast finished",
    "squash.* lineage",
    "export.*",
    "element_bits synthetic synthetic_state provenance",
    "trial round_trip self_contained",
    "report.*",
    "asking writing upgrading stamping loading",
    "lightning_hooks lightning pytorch_lightning transformers",
    "autogenerate.*",
    "cli.*",
)
"""Lowest first. A module imports from lower layers, and from its own."""

FREE = frozenset({"__init__", "__main__", "testing", "pytest_plugin"})
HEAVY = {"torch", "numpy", "safetensors"}
TERMINAL = {"click", "rich"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(modules())


def layer_of(module: str) -> int | None:
    """The exact name first, then its folder; None for a module outside of the order."""
    folder = module.split(".", 1)[0] + ".*"
    for wanted in (module, folder):
        for level, text in enumerate(LAYERS):
            if wanted in text.split():
                return level
    return None


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(imported module, whether at module level), without what only type checkers read."""

    def visit(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, top
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix("ckmigrate.")
                if full in MODULES:
                    yield f"ckmigrate.{full}", top
        inner = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(tree, True)


def test_every_module_has_a_layer() -> None:
    lost = [
        name
        for name in MODULES
        if layer_of(name) is None and name not in FREE and f"{name.split('.')[0]}.*" not in FREE
    ]
    assert not lost, "give these a place in LAYERS"


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) is not None])
def test_imports_run_one_way(name: str) -> None:
    level = layer_of(name)
    assert level is not None
    for imported, top in imports(MODULES[name]):
        if not imported.startswith("ckmigrate.") or not top:
            continue
        other = layer_of(imported.removeprefix("ckmigrate."))
        assert other is not None, imported
        assert other <= level, f"{name} imports {imported}, which lies above it"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_inside_functions(name: str) -> None:
    top = {imported.split(".")[0] for imported, at_top in imports(MODULES[name]) if at_top}
    assert not top & HEAVY


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli")])
def test_terminal_packages_stay_in_the_command_line(name: str) -> None:
    found = {imported.split(".")[0] for imported, _ in imports(MODULES[name])}
    assert not found & TERMINAL or name == "__main__"


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith(("cli", "__main__"))])
def test_library_code_neither_prints_nor_exits(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "quit"), f"{name}, line {node.lineno}"


def test_imports_among_modules_have_no_cycle() -> None:
    below = {
        name: {i.removeprefix("ckmigrate.") for i, top in imports(tree) if top} & set(MODULES)
        for name, tree in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for other in sorted(below[name] - {name}):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
