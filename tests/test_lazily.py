"""A name of a package is imported when it is used, and only then."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ckmigrate
from ckmigrate import names, operations
from ckmigrate.lazily import lazily


def run(code: str) -> list[str]:
    """The words that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("package", [ckmigrate, names, operations], ids=lambda p: p.__name__)
def test_every_public_name_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", [ckmigrate, names, operations], ids=lambda p: p.__name__)
def test_every_public_name_is_listed(package: object) -> None:
    """What completes names asks `dir`, before anything was imported."""
    code = f"import {package.__name__} as p; print(*set(p.__all__) - set(dir(p)))"  # type: ignore[attr-defined]
    assert run(code) == []


def test_a_star_brings_every_public_name() -> None:
    assert run("from ckmigrate import *; print(plan.__name__, init.__name__, Checkpoint.rename)")


def test_a_name_is_what_its_module_has() -> None:
    find, _ = lazily("ckmigrate.names", {"pair": "ckmigrate.names.renaming"})
    assert find("pair") is importlib.import_module("ckmigrate.names.renaming").pair


def test_a_module_is_found_by_its_own_name() -> None:
    find, _ = lazily("ckmigrate.operations", {"split": "ckmigrate.operations.split"})
    assert find("split") is importlib.import_module("ckmigrate.operations.split")


def test_another_name_is_missing_as_from_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'ckmigrate' has no attribute 'nothing'"):
        ckmigrate.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(names, "nothing")


def test_a_script_that_renames_imports_no_other_operation() -> None:
    code = (
        "import sys; from ckmigrate import concat, init, stack; "
        "from ckmigrate.checkpoint import Checkpoint; from ckmigrate.expr import Source; "
        "from ckmigrate.spec import DType, TensorSpec; "
        "ck = Checkpoint({'a': Source('a', TensorSpec(DType.F32, (2,)))}); ck.rename('a', 'b'); "
        "print(*sorted(n for n in sys.modules if n.startswith('ckmigrate.operations.')))"
    )
    assert run(code) == ["ckmigrate.operations.rename"]


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    """No order of imports is needed to break a circle."""
    code = (
        "import importlib, pkgutil, sys, ckmigrate\n"
        "for found in list(pkgutil.walk_packages(ckmigrate.__path__, 'ckmigrate.')):\n"
        "    for name in [n for n in sys.modules if n.partition('.')[0] == 'ckmigrate']:\n"
        "        del sys.modules[name]\n"
        "    try:\n"
        "        importlib.import_module(found.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name in ('lightning', 'pytorch_lightning', 'transformers'), error\n"
        "print('done')"
    )
    assert run(code) == ["done"]
