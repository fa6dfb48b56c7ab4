"""The strict load of what was written, into a fresh model."""

from __future__ import annotations

from collections.abc import Mapping

from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.loaded_tensors import loaded_tensors
from ckmigrate.names import compile_pattern
from ckmigrate.prepare import Prepared
from ckmigrate.target import strict_load

__all__ = ["strictly_loads"]


def strictly_loads(stored: Stored, entries: Mapping[str, Tensor], prepared: Prepared) -> None:
    """`load_state_dict(strict=True)` of a fresh model with the file's own tensors; errors are those
    of `ckmigrate.target.strict_load`."""
    target, project = prepared.target, prepared.project
    assert target is not None
    exempt = _exempt(tuple(target.schema), project.exempt) | _exempt(tuple(entries), project.exempt)
    with loaded_tensors(stored, entries, values=False) as tensors:
        given = {name: tensor for name, tensor in tensors.items() if name not in exempt}
        strict_load(
            target.factory,
            target.model,
            given,
            python_path=project.python_path,
            complete_ties=stored.format == "sharded",
            exempt=exempt,
        )


def _exempt(names: tuple[str, ...], patterns: tuple[str, ...]) -> frozenset[str]:
    compiled = [compile_pattern(pattern) for pattern in patterns]
    return frozenset(n for n in names if any(p.match(n) is not None for p in compiled))
