"""What is written of a checkpoint, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree_paths import Path
from ckmigrate.planning import Plan
from ckmigrate.training.layouts import Layout

__all__ = ["Contents"]


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of a plan, and what stands around them.

    stored        the source
    tree          its tree after edits of its metadata
    layout        where everything is in that tree
    gone          paths of training state in it that is left behind
    tag           the record of the revision, as text
    unwrap        write bare names
    weights_only  leave everything but the state dict behind
    """

    plan: Plan
    stored: Stored
    layout: Layout
    tree: object
    gone: Sequence[Path]
    tag: str
    unwrap: bool
    weights_only: bool

    @property
    def prefix(self) -> str:
        """What written names begin with."""
        return "" if self.unwrap else self.layout.prefix
