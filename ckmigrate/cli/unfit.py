"""The strict comparison, told of a file that is looked at and not of one that is being made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ckmigrate.errors import VerificationError

__all__ = ["told_of_the_file"]


@contextmanager
def told_of_the_file(what: str) -> Iterator[None]:
    """Turn CKM601, about a result, into CKM621 about the file itself."""
    try:
        yield
    except VerificationError as error:
        if error.code != "CKM601":
            raise
        goal = error.what.removeprefix("the result would not fit ")
        raise VerificationError(
            "CKM621",
            f"{what}: compared with {goal}",
            where=error.where,
            details=error.details,
            why=error.why,
            fix="`ckmigrate identify` shows what it fits. Nothing was written.",
        ) from None
