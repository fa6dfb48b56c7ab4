"""What becomes of optimizer state and copies of weights when the weights change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from ckmigrate.compile import Trace
from ckmigrate.errors import MigrationError
from ckmigrate.formats.tree_paths import child
from ckmigrate.opened import Opened, Request
from ckmigrate.target import Target
from ckmigrate.target_optimizer import Groups
from ckmigrate.training.carried import NOTHING, Carried, Labels, joined
from ckmigrate.training.carry_optimizer import (
    carry_optimizer_state,
    has_new_order,
    parameters_in_order,
)
from ckmigrate.training.copies import carry_copy, carry_list
from ckmigrate.training.copy_names import NotCarried
from ckmigrate.training.copy_parts import Memory, Moved
from ckmigrate.training.optimizer_form import counts_parameters
from ckmigrate.training.outside import Outside

__all__ = ["carry_state"]

_FLAGS: Final = {"optimizer": "--optimizer drop", "copy": "--ema drop"}
_UNREADABLE: Final = "such a file stays as it is, and would be of the old architecture"


def carry_state(
    opened: Opened,
    trace: Trace,
    target: Target | None,
    request: Request,
    *,
    groups: Callable[[], Groups | None] = lambda: None,
    wrappers: Sequence[str] = (),
    order: tuple[str, ...] | None = None,
) -> Carried:
    """The training state of a checkpoint after a migration: all of it that is not dropped.

    opened    the checkpoint, with its tree after edits of metadata
    groups    those of the optimizers that the project's code makes, where it is configured
    wrappers  name segments that may stand before names in an optimizer
    order     the weights in the order of the model, for a file that does not keep it

    MigrationError CKM560 where some of it cannot follow, with every reason: a resumable checkpoint
    whose state is of the old model is never written. Others as `carry_optimizers`.
    """
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    wanted = [o for o in opened.layout.training_state if policy.get(o.kind) == "carry"]
    if trace.is_identity and trace.start.ties == trace.end.ties:
        wanted = _renumbered(wanted, opened, target, order)
    if request.weights_only or not wanted:
        return NOTHING
    labels = Labels((*trace.start.entries, *trace.end.entries))
    copies = [o for o in wanted if o.is_readable and o.kind == "copy"]
    optimizers = [o for o in wanted if o.is_readable and o.kind == "optimizer"]
    done, problems = _copies(copies, opened, trace, target, labels, order)
    problems += [(outside, _UNREADABLE) for outside in wanted if not outside.is_readable]
    carry = functools.partial(carry_optimizer_state, groups=groups, wrappers=wrappers, order=order)
    try:
        with _placed(opened, optimizers):
            done.append(carry(optimizers, opened, trace, target, request, labels))
    except MigrationError as error:
        if not problems:
            raise
        problems += [(outside, error.what) for outside in optimizers]
    if problems:
        raise _refused(opened, problems)
    return joined(done)


def _renumbered(
    wanted: Sequence[Outside],
    opened: Opened,
    target: Target | None,
    order: tuple[str, ...] | None,
) -> list[Outside]:
    """The state that becomes stale though no weight changes: numbers of parameters, where the model
    has these in another order."""
    counted = [o for o in wanted if o.is_readable and _counts(o, opened)]
    return counted if counted and has_new_order(opened, target, order) else []


def _counts(outside: Outside, opened: Opened) -> bool:
    """Whether state goes by numbers of parameters."""
    node = child(opened.stored.state_tree, outside.path)
    return (
        counts_parameters(node) if outside.kind == "optimizer" else isinstance(node, list | tuple)
    )


def _copies(
    wanted: Sequence[Outside],
    opened: Opened,
    trace: Trace,
    target: Target | None,
    labels: Labels,
    order: tuple[str, ...] | None,
) -> tuple[list[Carried], list[tuple[Outside, str]]]:
    """What follows, and what does not, with reasons."""
    known = None if target is None else target.parameters
    listed = parameters_in_order(opened, trace, target, order)
    start, end = trace.start, trace.end
    moved = Moved(opened.layout.entries, start.ties, end.entries, end.ties, known, listed)
    memory = Memory(moved)
    done: list[Carried] = []
    problems: list[tuple[Outside, str]] = []
    for outside in wanted:
        node = child(opened.stored.state_tree, outside.path)
        try:
            with _placed(opened, [outside]):
                if isinstance(node, list | tuple):
                    done.append(carry_list(node, outside.path, moved, labels, memory))
                else:
                    done.append(carry_copy(node, outside.path, moved, labels, memory))
        except NotCarried as reason:
            problems.append((outside, str(reason)))
    return done, problems


@contextmanager
def _placed(opened: Opened, wanted: Sequence[Outside]) -> Iterator[None]:
    """Errors tell at least which state of which file."""
    try:
        yield
    except MigrationError as error:
        paths = ", ".join(".".join(map(str, outside.path)) for outside in wanted)
        error.where = error.where or f"{paths} in {opened.stored.path}"
        raise


def _refused(opened: Opened, problems: list[tuple[Outside, str]]) -> MigrationError:
    needed = " ".join(dict.fromkeys(_FLAGS[outside.kind] for outside, _ in problems))
    return MigrationError(
        "CKM560",
        "the checkpoint holds training state that cannot follow the weights",
        where=str(opened.stored.path),
        details=tuple(
            f"{'.'.join(map(str, o.path))}: {o.description}; {reason}" for o, reason in problems
        ),
        why="The migration changes the weights, and training would resume from state of the old "
        "architecture without a word.",
        fix=f"Leave it out by saying so: {needed}; or write the weights alone: --weights-only.",
    )
