"""Names of a package that are imported when they are first used, so that a command pays only for
the parts that it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` of a package (PEP 562), which type checkers need not see:
    to them a package with a `__getattr__` has every name.

    homes  name → the module that it is in; a module of that name in the package is the name itself
    """

    def find(name: str) -> object:
        from importlib import import_module

        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home)
        return module if home == f"{package}.{name}" else getattr(module, name)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, listed
