"""Reading a result as a stranger would, before it gets its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.errors import StorageError, VerificationError
from ckmigrate.formats.base import Stored
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.formats.tree_paths import child, path_after_drop
from ckmigrate.opened import dropped_state, edited
from ckmigrate.spec import Schema
from ckmigrate.strict import compare, describe
from ckmigrate.training.layouts import Layout, find_weights

if TYPE_CHECKING:
    from ckmigrate.prepare import Prepared

__all__ = ["verify_file"]


def verify_file(path: Path, prepared: Prepared) -> None:
    """Read the file again: its tag, its schema, its training state, then a strict load into a
    fresh model.

    VerificationError CKM602 where the tag, CKM603 where the tensors, CKM606 where the training
    state is not what was planned, CKM605 where names would be taken for a wrapper's. StorageError
    where the weights would not be found again.
    """
    request, project = prepared.request, prepared.project
    carry = (*project.carry, *request.carry)
    stored = open_checkpoint(path, carry=carry, before=prepared.opened.stored)
    if stored.tag != prepared.tag.to_json():
        raise _broken("CKM602", "the tag is not the one that was written")
    layout = _found_again(stored, prepared)
    found = Schema((name, tensor.spec) for name, tensor in layout.entries.items())
    if found != prepared.plan.schema:
        lines = describe(compare(found, prepared.plan.schema))
        raise _broken("CKM603", "the tensors are not the ones that were planned", lines)
    _require_state(stored, prepared)
    if prepared.target is not None:
        from ckmigrate.strictly_loads import strictly_loads

        strictly_loads(stored, layout.entries, prepared)
    if request.full_verify:
        from ckmigrate.run_script_verifies import run_script_verifies

        run_script_verifies(stored, layout.entries, prepared)


def _require_state(stored: Stored, prepared: Prepared) -> None:
    """Compare the training state that followed the weights with what was planned."""
    source = prepared.opened.stored
    if source.is_flat and stored.format != source.format:
        return  # what is beside the weights of a folder stays there
    after = edited(
        prepared.opened, prepared.plan.trace.end.meta.tree, prepared.project, prepared.request
    )
    tree = after.stored.state_tree
    gone = dropped_state(after.layout, prepared.request)
    lines: list[str] = []
    for node in prepared.plan.carried.nodes:
        where = ".".join(map(str, node.path))
        try:
            found = child(stored.state_tree, path_after_drop(tree, node.path, gone))
        except (KeyError, IndexError):
            lines.append(f"{where}: it is not there")
        else:
            lines += [f"{where}: {line}" for line in node.verify(found)]
    if lines:
        raise _broken("CKM606", "the training state is not what was planned", tuple(lines[:40]))


def _found_again(stored: Stored, prepared: Prepared) -> Layout:
    """The weights where the next run will look for them."""
    request, project, source = prepared.request, prepared.project, prepared.opened
    nested = not stored.is_flat and not source.stored.is_flat
    keeps_place = nested and not request.weights_only
    weights = (request.weights or project.weights) if keeps_place else None
    try:
        layout = find_weights(stored, weights=weights, wrappers=project.wrappers)
    except StorageError as error:
        # Of the file that the user knows, not of one that is gone in a moment.
        error.where = f"{source.stored.path}, as it would be written"
        raise
    written = "" if request.unwrap else source.layout.prefix
    if layout.prefix != written:
        raise VerificationError(
            "CKM605",
            f"every name of the result begins with '{layout.prefix}', which counts as a wrapper's",
            where=str(source.stored.path),
            why="The next run would leave it out of the names, and fit no revision.",
            fix="Name the wrappers of this project in its configuration (wrappers = [] for none), "
            "or choose other names in the migration. Nothing was written.",
        )
    return layout


def _broken(code: str, what: str, details: tuple[str, ...] = ()) -> VerificationError:
    return VerificationError(
        code,
        f"the result reads back differently: {what}",
        details=details,
        why="The file was written and read again before it got its name.",
        fix="Nothing was kept. Please report this with the plan: it is a defect of ckmigrate.",
    )
