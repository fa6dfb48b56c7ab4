"""A name of a package is imported when it is used, and only then."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ckmigrate
from ckmigrate import names, operations
from ckmigrate.lazily import lazily


@pytest.mark.parametrize("package", [ckmigrate, names, operations], ids=lambda p: p.__name__)
def test_every_public_name_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None


def test_a_name_is_what_its_module_has() -> None:
    find = lazily("ckmigrate.names", {"pair": "ckmigrate.names.renaming"})
    assert find("pair") is importlib.import_module("ckmigrate.names.renaming").pair


def test_a_module_is_found_by_its_own_name() -> None:
    find = lazily("ckmigrate.operations", {"split": "ckmigrate.operations.split"})
    assert find("split") is importlib.import_module("ckmigrate.operations.split")


def test_another_name_is_missing_as_from_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'ckmigrate' has no attribute 'nothing'"):
        ckmigrate.nothing  # noqa: B018
    assert not hasattr(names, "nothing")


def test_a_script_that_renames_imports_no_other_operation() -> None:
    code = (
        "import sys; from ckmigrate import concat, init, stack; "
        "from ckmigrate.checkpoint import Checkpoint; from ckmigrate.expr import Source; "
        "from ckmigrate.spec import DType, TensorSpec; "
        "ck = Checkpoint({'a': Source('a', TensorSpec(DType.F32, (2,)))}); ck.rename('a', 'b'); "
        "print(*sorted(n for n in sys.modules if n.startswith('ckmigrate.operations.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ckmigrate.operations.rename"]
