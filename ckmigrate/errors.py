"""The exception tree of ckmigrate.

Every error that a user can cause is a `CkmigrateError`: it carries a stable code (`CKM` and three
digits, the first digit is the exit code), what happened, where, why, and what to do next. The
command line prints these fields; library code only raises.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CkmigrateError",
    "HistoryError",
    "IdentifyError",
    "MigratedOnLoad",
    "MigrationError",
    "NotStamped",
    "StorageError",
    "UsageError",
    "VerificationError",
]


class CkmigrateError(Exception):
    """One failure, told completely.

    code     stable identifier such as "CKM501"; documented, safe to match on
    what     one sentence: what is wrong, with the names that matter
    where    the place: a path, or "0004_split_qkv.py, line 12"; None when there is no better place
    why      the reason: what was expected and what was found
    fix      the next step that the user can take
    details  further lines, such as every problem of a plan that was refused
    """

    exit_code: ClassVar[int] = 5

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        fix: str | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what)
        if not code.startswith(f"CKM{self.exit_code}"):
            raise AssertionError(f"{code} does not belong to {type(self).__name__}")
        self.code = code
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        self.details = details

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.what}"]
        if self.where:
            lines.append(f"  at: {self.where}")
        lines.extend(f"  - {detail}" for detail in self.details)
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class UsageError(CkmigrateError):
    """The command line or the configuration cannot be used (exit 2)."""

    exit_code = 2


class HistoryError(CkmigrateError):
    """The migration scripts do not form a valid history (exit 3)."""

    exit_code = 3


class IdentifyError(CkmigrateError):
    """The revision of a checkpoint is unknown, ambiguous or newer than this history (exit 4)."""

    exit_code = 4


class MigrationError(CkmigrateError):
    """A migration was refused or failed (exit 5)."""

    exit_code = 5


class VerificationError(CkmigrateError):
    """The result does not fit the target; nothing was written (exit 6)."""

    exit_code = 6


class StorageError(CkmigrateError):
    """A file cannot be read, is unsafe, or cannot be written (exit 7)."""

    exit_code = 7


class MigratedOnLoad(UserWarning):
    """A checkpoint is behind and was migrated in memory, as it will be each time it is loaded."""


class NotStamped(UserWarning):
    """Checkpoints are saved without a tag: the model that is trained is not at the head."""
