"""What a run over many checkpoints leaves as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckmigrate.cli.collect import Collection, Found
from ckmigrate.cli.destination import Placement
from ckmigrate.cli.session import Answer
from ckmigrate.finished import is_finished
from ckmigrate.prepare import Prepared
from ckmigrate.report.escape import printable
from ckmigrate.report.outcome import untouched_data
from ckmigrate.report.revisions import revision_text

__all__ = ["finished", "resumes", "skips_current"]


def skips_current(
    collection: Collection, output: Mapping[str, Any], batch: Mapping[str, Any]
) -> bool:
    """Whether a checkpoint that needs nothing is left alone: always in place; of many that go to
    a folder, unless all are wanted there."""
    to_folder = bool(output["out_dir"]) and collection.is_batch and not batch["copy_current"]
    return bool(output["in_place"]) or to_folder


def resumes(collection: Collection, placement: Placement) -> bool:
    """Whether results of an earlier run may be there: many go to a folder, and none is to be made
    anew."""
    return collection.is_batch and placement.out_dir is not None and not placement.overwrite


def finished(
    found: Found, placement: Placement, decide: Callable[[Path], Prepared]
) -> Answer | None:
    """The answer for a checkpoint whose result stands there already; None for any other."""
    path = placement.path_for(found)
    if not path.exists():
        return None
    prepared = decide(found.path)
    if not is_finished(prepared, placement.destination(found, prepared.identity.revision)):
        return None
    at = revision_text(prepared.history, prepared.to_revision)
    text = f"{printable(found.path)}: {printable(path)} is its result already, at {at}"
    data = {**untouched_data(prepared), "output": str(path)}
    return Answer(data, text, outcome="done")
