"""The signature of a schema: what every size and depth of one architecture have in common."""

from __future__ import annotations

import hashlib

from ckmigrate.fold import skeleton
from ckmigrate.spec import Schema

__all__ = ["signature", "signature_text"]

ALGORITHM = 1

_DIGITS = 16


def signature(schema: Schema) -> frozenset[tuple[str, int, str]]:
    """Names with their indices folded away, number of dimensions and kind of numbers."""
    return frozenset((skeleton(n), spec.ndim, spec.dtype.kind) for n, spec in schema.items())


def signature_text(schema: Schema) -> str:
    """The signature as "1:" and sixteen hexadecimal digits."""
    lines = sorted(f"{ndim} {kind} {name}" for name, ndim, kind in signature(schema))
    text = "\n".join(lines).encode(errors="surrogatepass")
    return f"{ALGORITHM}:{hashlib.sha256(text).hexdigest()[:_DIGITS]}"
