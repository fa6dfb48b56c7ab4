"""The order in which people count: numbers inside names compare as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["in_order", "natural_key"]

_DIGITS = re.compile(r"[0-9]+")


def natural_key(name: str) -> tuple[str, str]:
    """A sort key by which `layers.2` comes before `layers.10`, and `a.b` before `a-b`."""
    return _natural_text(name), name


@lru_cache(maxsize=1 << 16)
def _natural_text(name: str) -> str:
    return _DIGITS.sub(lambda run: f"{len(run[0]):03}{run[0]}", name.replace(".", "\0"))


def in_order(values: Iterable[str]) -> list[tuple[str, str]]:
    """A sort key over several texts, from left to right."""
    return [natural_key(value) for value in values]
