"""Versioned migrations for PyTorch checkpoints.

A migration script imports from here: `from ckmigrate import init, concat, stack`. Everything that
is heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Checkpoint", "CkmigrateError", "__version__", "concat", "init", "stack"]

if TYPE_CHECKING:
    from ckmigrate import init
    from ckmigrate.checkpoint import Checkpoint
    from ckmigrate.errors import CkmigrateError
    from ckmigrate.symbolic import concat, stack

_LAZY = {
    "Checkpoint": "ckmigrate.checkpoint",
    "CkmigrateError": "ckmigrate.errors",
    "concat": "ckmigrate.symbolic",
    "stack": "ckmigrate.symbolic",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "init":
        return import_module("ckmigrate.init")
    raise AttributeError(f"module 'ckmigrate' has no attribute {name!r}")
