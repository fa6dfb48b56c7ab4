"""The training state of one checkpoint through a migration, with what the project says of it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ckmigrate.case import Case
from ckmigrate.compile import Trace
from ckmigrate.opened import Opened
from ckmigrate.snapshot import order_of
from ckmigrate.target_optimizer import Groups, load_groups
from ckmigrate.training.carried import Carried
from ckmigrate.training.carry_state import carry_state

if TYPE_CHECKING:
    from ckmigrate.target import Target

__all__ = ["carry"]


def carry(case: Case, after: Opened, done: Trace, target: Target | None) -> Carried:
    """What becomes of the training state of a checkpoint.

    after  the checkpoint, with its tree after edits of metadata

    Raises as `ckmigrate.training.carry_state` does.
    """
    return carry_state(
        after,
        done,
        target,
        case.request,
        groups=functools.partial(_groups_of_code, case, target),
        wrappers=case.project.wrappers,
        order=_recorded_order(case),
    )


def _recorded_order(case: Case) -> tuple[str, ...] | None:
    """The weights in the order of the model, where the file is at the base and the snapshots that
    it fits know one."""
    if case.identity.revision is not None:
        return None
    orders = (order_of(replay.base, case.opened.schema) for replay in case.known.values())
    found = set(orders) - {None}
    return found.pop() if len(found) == 1 else None


def _groups_of_code(case: Case, target: Target | None) -> Groups | None:
    """The groups of the optimizers that the project's code makes of the model; None where it is not
    told how, or there is no model."""
    function = case.project.optimizer
    if target is not None and target.groups is not None:
        return target.groups
    if function is None or target is None:
        return None
    python_path = case.project.python_path
    return load_groups(function, target.factory, target.model, python_path=python_path)
