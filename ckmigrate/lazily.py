"""Names of a package that are imported when they are first used, so that a command pays only for
the parts that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562).

    homes  name → the module that it is in; a module of that name in the package is the name itself
    """

    def find(name: str) -> object:
        from importlib import import_module

        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(home)
        return module if home == f"{package}.{name}" else getattr(module, name)

    return find
