"""Versioned migrations for PyTorch checkpoints.

A migration script imports from here: `from ckmigrate import init, concat, stack`. A program that
trains or serves: `ckmigrate.load`, `upgrade`, `plan`, `tag`. Everything that is heavy is imported
when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckmigrate.lazily import lazily

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CkmigrateError",
    "MigratedOnLoad",
    "Stamp",
    "UpgradePlan",
    "Upgraded",
    "__version__",
    "concat",
    "init",
    "load",
    "plan",
    "stack",
    "tag",
    "tag_metadata",
    "upgrade",
]

if TYPE_CHECKING:
    from ckmigrate import init
    from ckmigrate.checkpoint import Checkpoint
    from ckmigrate.errors import CkmigrateError, MigratedOnLoad
    from ckmigrate.loading import load
    from ckmigrate.stamping import Stamp, tag, tag_metadata
    from ckmigrate.symbolic import concat, stack
    from ckmigrate.upgrading import Upgraded, UpgradePlan, plan, upgrade
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Checkpoint": "ckmigrate.checkpoint",
            "CkmigrateError": "ckmigrate.errors",
            "MigratedOnLoad": "ckmigrate.errors",
            "Stamp": "ckmigrate.stamping",
            "UpgradePlan": "ckmigrate.upgrading",
            "Upgraded": "ckmigrate.upgrading",
            "concat": "ckmigrate.symbolic",
            "init": "ckmigrate.init",
            "load": "ckmigrate.loading",
            "plan": "ckmigrate.upgrading",
            "stack": "ckmigrate.symbolic",
            "tag": "ckmigrate.stamping",
            "tag_metadata": "ckmigrate.stamping",
            "upgrade": "ckmigrate.upgrading",
        },
    )
