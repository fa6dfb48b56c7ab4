"""The `verify(old, new)` of scripts, run on the values of a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckmigrate.compile import State
from ckmigrate.errors import MigrationError, StorageError, VerificationError
from ckmigrate.execute.fill import read_expression
from ckmigrate.execute.source import SourceFile, open_source
from ckmigrate.expr import Expr
from ckmigrate.formats.base import Stored
from ckmigrate.formats.tree import Tensor
from ckmigrate.loaded_tensors import loaded_tensors, tensor_from_bytes
from ckmigrate.opened import Opened
from ckmigrate.prepare import Prepared
from ckmigrate.revisions.script import Script

if TYPE_CHECKING:
    import torch

__all__ = ["run_script_verifies"]


def run_script_verifies(stored: Stored, entries: Mapping[str, Tensor], prepared: Prepared) -> None:
    """Run the `verify(old, new)` of every script in the chain.

    Each gets the values before and after its own change, whatever other scripts did: those of the
    newest state are read from the written file, those in between are worked out again, one tensor
    at a time. Going back, `new` still is the newer side.

    VerificationError CKM604 where one raises or returns False.
    """
    scripts = prepared.plan.trace.scripts
    with _values(prepared.opened) as values, loaded_tensors(stored, entries) as written:
        for number, traced in enumerate(scripts, start=1):
            check = traced.script.load().verify
            if check is None:
                continue
            begin = values(traced.before)
            end = written if number == len(scripts) else values(traced.after)
            old, new = (end, begin) if traced.direction == "down" else (begin, end)
            _require_truth(traced.script, check, old, new)


def _require_truth(script: Script, check: Callable[..., object], old: object, new: object) -> None:
    try:
        verdict = check(old, new)
    except (MigrationError, StorageError):
        raise
    except (Exception, SystemExit) as error:
        raise _violated(script, f"{type(error).__name__}: {error}") from error
    if verdict is False:
        raise _violated(script, "it returned False")


class _Values(Mapping[str, "torch.Tensor"]):
    """The tensors of a state between two scripts, each made when it is asked for."""

    def __init__(self, entries: Mapping[str, Expr], source: SourceFile) -> None:
        self._entries = entries
        self._source = source

    def __getitem__(self, name: str) -> torch.Tensor:
        expr = self._entries[name]
        return tensor_from_bytes(bytearray(read_expression(expr, self._source)), expr.spec)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@contextmanager
def _values(opened: Opened) -> Iterator[Callable[[State], _Values]]:
    with open_source(opened.stored, opened.layout.entries) as source:
        yield lambda state: _Values(state.entries, source)


def _violated(script: Script, why: str) -> VerificationError:
    return VerificationError(
        "CKM604",
        f"verify() of {script.path.name} does not hold",
        where=script.path.name,
        why=why,
        fix="The migration does not do what its author promised: correct the script.",
    )
