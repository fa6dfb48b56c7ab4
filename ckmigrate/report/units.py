"""Sizes and counts in words, and back."""

from __future__ import annotations

import re

from ckmigrate.errors import UsageError

__all__ = ["bytes_text", "counted", "parse_size"]

_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)(b?)\s*", re.IGNORECASE | re.ASCII)


def bytes_text(count: int) -> str:
    """A number of bytes in decimal units of three digits: "195 KB", "1.2 GB"."""
    number, unit = float(count), 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    if unit == 0:
        return counted(count, "byte")
    return f"{number:.1f} {_UNITS[unit]}" if number < 9.95 else f"{number:.0f} {_UNITS[unit]}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """ "1 entry", "213 entries"."""
    word = singular if count == 1 else plural or f"{singular}s"
    return f"{count} {word}"


def parse_size(text: str) -> int:
    """Bytes from "512M", "2GiB", "1.5 GB" or "1000"; UsageError CKM231 for anything else.

    Decimal units are powers of 1000; with an `i` they are powers of 1024.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(
            "CKM231",
            f"'{text}' is not a size",
            why="a size is a number of bytes, or a number with a unit",
            fix="Write a size such as 512MB, 2GiB or 1.5G.",
        )
    power = " kmgtp".index(found[2].lower() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
