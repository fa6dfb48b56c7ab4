"""Patterns against the checkpoint's names; finding nothing is an error unless it is optional."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ckmigrate import names
from ckmigrate.errors import MigrationError
from ckmigrate.step import Schemas, refuse

if TYPE_CHECKING:
    from ckmigrate.names import Group, Match, StackGroup

T = TypeVar("T")

__all__ = ["groups", "select", "stack_groups"]


def select(
    pattern: str | re.Pattern[str], specs: Schemas, *, optional: bool = False
) -> tuple[Match, ...]:
    """Every match in natural order; MigrationError CKM505 where there is none."""
    found = names.select(pattern, specs)
    if found or optional:
        return found
    text = pattern if isinstance(pattern, str) else pattern.pattern
    near = names.nearest(text, specs)
    raise refuse(
        "CKM505",
        f"'{text}' matches nothing",
        why=f"Nearest: {', '.join(near)}." if near else "The checkpoint has no entry like it.",
        fix="Correct the pattern, or say optional=True if only some checkpoints have the entry.",
    )


def groups(members: Sequence[str], specs: Schemas, *, optional: bool) -> tuple[Group, ...]:
    """Complete groups of the members' matches; see `ckmigrate.names.groups`."""
    return _unless_absent(lambda: names.groups(members, specs), optional=optional)


def stack_groups(
    sources: str, target: str, specs: Schemas, *, optional: bool
) -> tuple[StackGroup, ...]:
    """Groups of indexed matches; see `ckmigrate.names.stack_groups`."""
    return _unless_absent(lambda: names.stack_groups(sources, target, specs), optional=optional)


def _unless_absent(find: Callable[[], tuple[T, ...]], *, optional: bool) -> tuple[T, ...]:
    try:
        return find()
    except MigrationError as error:
        if optional and error.code == "CKM505":
            return ()
        raise
