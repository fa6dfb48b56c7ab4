"""The one function that everything printed goes through.

Names, metadata and paths come from files of strangers. A terminal obeys escape sequences and
bidirectional controls, so what cannot be printed is shown as its escape instead.
"""

from __future__ import annotations

__all__ = ["printable", "printable_text", "shortened"]

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    """The text on one line, with every character visible: `a\\x1b[31mb`, `a\\nb`, `\\u202e`."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def printable_text(text: str) -> str:
    """The same for text of several lines, which keeps its line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))


def shortened(text: object, width: int) -> str:
    """The printable text in at most `width` columns; what is left out in the middle is a `…`."""
    shown = printable(text)
    if len(shown) <= width or width < 3:
        return shown
    left = (width - 1) // 2
    return f"{shown[:left]}…{shown[len(shown) - (width - 1 - left) :]}"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
