"""The operations of a migration script: one file, one effect.

Each module has a function that resolves patterns against the names and specs of the checkpoint into
steps, and the kernel that those steps apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckmigrate.lazily import lazily

__all__ = [
    "assign",
    "cast",
    "compute",
    "copy",
    "gather",
    "init",
    "rearrange",
    "rename",
    "resize",
    "split",
    "stack",
]

if TYPE_CHECKING:
    from ckmigrate.operations import (
        assign,
        cast,
        compute,
        copy,
        gather,
        init,
        rearrange,
        rename,
        resize,
        split,
        stack,
    )
else:
    __getattr__, __dir__ = lazily(__name__, {name: f"{__name__}.{name}" for name in __all__})
