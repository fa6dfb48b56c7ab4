"""Short questions that the tests of names ask."""

from __future__ import annotations

import pytest

from ckmigrate.errors import MigrationError
from ckmigrate.names import PatternLike, compile_pattern, pair


def captured(pattern: PatternLike, name: str) -> dict[str, str] | None:
    found = compile_pattern(pattern).match(name)
    return None if found is None else dict(found)


def renamed(old: PatternLike, new: PatternLike, names: list[str]) -> dict[str, str]:
    return pair(old, new, names)


def code_of(raised: pytest.ExceptionInfo[MigrationError]) -> str:
    error = raised.value
    assert error.what
    assert error.why
    assert error.fix
    return error.code
