"""New modules that stand beside one built exactly like them: fresh, or a copy of it?

A second head may begin with the values of the first. Norms and other vectors are alike everywhere,
so only modules that have a matrix are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckmigrate.autogenerate.board import Board
from ckmigrate.autogenerate.patterns import quoted
from ckmigrate.autogenerate.proposal import Proposal
from ckmigrate.autogenerate.replay import run_call
from ckmigrate.autogenerate.rows import patterns_of
from ckmigrate.errors import MigrationError
from ckmigrate.spec import TensorSpec

__all__ = ["copy_readings", "twins"]


def twins(came: Mapping[str, TensorSpec], known: Mapping[str, TensorSpec]) -> dict[str, str]:
    """New module → a module beside it with the same entries, as far as there is one."""
    new, old = _modules(came), _modules(known)
    beside: dict[str, list[str]] = {}
    for module in old:
        beside.setdefault(module.rpartition(".")[0], []).append(module)
    found = {}
    for module, leaves in new.items():
        near = beside.get(module.rpartition(".")[0], [])
        alike = [other for other in near if other != module and old[other] == leaves]
        if alike and any(spec.ndim > 1 for spec in leaves.values()):
            found[module] = alike[0]
    return found


def copy_readings(
    board: Board, names: Sequence[str], twin_of: Mapping[str, str]
) -> tuple[Proposal, ...]:
    """New entries as copies of their twins, where one call can say it."""
    parts = [name.rpartition(".") for name in names]
    rows = [
        (f"{twin_of[module]}.{leaf}", f"{module}.{leaf}")
        for module, _, leaf in parts
        if module in twin_of
    ]
    if len(rows) < len(names):
        return ()
    for source, target in patterns_of(rows):
        call = f"ck.copy({quoted(source)}, {quoted(target)})"
        try:
            made = run_call(call, board.state).entries.keys() - board.state.entries.keys()
        except MigrationError:
            continue
        if made == set(names):
            takes = tuple(row[0] for row in rows)
            why = "begins with the values of a module that is built alike"
            return (Proposal("copy", call, takes, (*takes, *names), "guess", why),)
    return ()


def _modules(specs: Mapping[str, TensorSpec]) -> dict[str, dict[str, TensorSpec]]:
    found: dict[str, dict[str, TensorSpec]] = {}
    for name, spec in specs.items():
        module, dot, leaf = name.rpartition(".")
        if dot:
            found.setdefault(module, {})[leaf] = spec
    return found
