"""What becomes of optimizer state and copies of weights when the weights change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ckmigrate.compile import Trace
from ckmigrate.errors import MigrationError
from ckmigrate.formats.tree_paths import child
from ckmigrate.opened import Opened, Request
from ckmigrate.target import Target
from ckmigrate.training.carried import NOTHING, Carried, Labels, joined
from ckmigrate.training.copies import Memory, Moved, carry_copy
from ckmigrate.training.copy_names import NotCarried
from ckmigrate.training.layouts import Outside

__all__ = ["carry_state"]

_FLAGS: Final = {"optimizer": "--optimizer drop", "copy": "--ema drop"}


def carry_state(opened: Opened, trace: Trace, target: Target | None, request: Request) -> Carried:
    """The training state of a checkpoint after a migration: all of it that is not dropped.

    opened  the checkpoint, with its tree after edits of metadata

    MigrationError CKM560 where some of it cannot follow, with every reason: a resumable checkpoint
    whose state is of the old model is never written.
    """
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    wanted = [o for o in opened.layout.training_state if policy.get(o.kind) == "carry"]
    same = trace.is_identity and trace.start.ties == trace.end.ties
    if same or request.weights_only or not wanted:
        return NOTHING
    carry = _carrier(opened, trace, request)
    done: list[Carried] = []
    problems: list[tuple[Outside, str]] = []
    for outside in wanted:
        try:
            done.append(carry(outside))
        except NotCarried as reason:
            problems.append((outside, str(reason)))
        except MigrationError as error:
            place = f"{'.'.join(map(str, outside.path))} in {opened.stored.path}"
            error.where = error.where or place
            raise
    if problems:
        raise _refused(opened, problems)
    return joined(done)


def _carrier(opened: Opened, trace: Trace, request: Request) -> Callable[[Outside], Carried]:
    """What carries one node of training state."""
    start, end, tree = trace.start, trace.end, opened.stored.state_tree
    moved = Moved(opened.layout.entries, start.ties, end.entries, end.ties)
    labels, memory = Labels((*start.entries, *end.entries)), Memory(moved)

    def carry(outside: Outside) -> Carried:
        if not outside.is_readable:
            raise NotCarried("such a file stays as it is, and would be of the old architecture")
        if outside.kind == "optimizer":
            raise NotCarried("the state of an optimizer does not follow the weights")
        node = child(tree, outside.path)
        return carry_copy(node, outside.path, moved, labels, memory)

    return carry


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
