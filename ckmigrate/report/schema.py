"""Schemas as folded, aligned lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ckmigrate.fold import fold, fold_names
from ckmigrate.report.escape import printable
from ckmigrate.spec import TensorSpec

__all__ = ["ellipsis_list", "schema_lines", "shape_text", "ties_lines"]

_WIDEST = 60


def shape_text(spec: TensorSpec) -> str:
    """`[64,32]`; a scalar is `[]`."""
    return f"[{','.join(map(str, spec.shape))}]"


def schema_lines(schema: Mapping[str, TensorSpec], *, folded: bool = True) -> list[str]:
    """`layers.{0…3}.weight  [64,64]  float32  ×4`, in the order of the schema."""
    rows = (
        [(printable(line.pattern), line.value, len(line.names)) for line in fold(schema)]
        if folded
        else [(printable(name), spec, 1) for name, spec in schema.items()]
    )
    width = min(_WIDEST, max((len(name) for name, _, _ in rows), default=0))
    shapes = max((len(shape_text(spec)) for _, spec, _ in rows), default=0)
    return [
        f"{name:<{width}}  {shape_text(spec):<{shapes}}  {spec.dtype}"
        + (f"  ×{count}" if count > 1 else "")
        for name, spec, count in rows
    ]


def ties_lines(ties: Iterable[Sequence[str]]) -> list[str]:
    """One line for each group of names that are one tensor."""
    return [" = ".join(printable(name) for name in fold_names(group)) for group in ties]


def ellipsis_list(texts: Sequence[str], limit: int) -> list[str]:
    """The first texts, and how many more there are."""
    more = len(texts) - limit
    return list(texts) if more <= 0 else [*texts[:limit], f"… {more} more"]
