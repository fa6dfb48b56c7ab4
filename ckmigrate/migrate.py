"""One checkpoint through the whole pipeline: `prepare` decides, `carry_out` writes.

The command line and the Python interface both stand on these two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckmigrate.execute.commit import Committed, Destination, check_unchanged, commit
from ckmigrate.execute.failures import explained
from ckmigrate.execute.fill import Progress, check_claims, fill
from ckmigrate.execute.lock import Lock
from ckmigrate.execute.source import SourceFile
from ckmigrate.formats.open_checkpoint import open_regular
from ckmigrate.opened import Opened, Request, identify_opened, open_weights, replays
from ckmigrate.output import Output, format_of, make_output
from ckmigrate.prepare import Prepared, find_target, prepare
from ckmigrate.training.layouts import Layout, find_weights
from ckmigrate.verify import verify_file

__all__ = [
    "Opened",
    "Outcome",
    "Prepared",
    "Request",
    "build_output",
    "carry_out",
    "find_target",
    "identify_opened",
    "open_weights",
    "prepare",
    "replays",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A migration that was carried out."""

    prepared: Prepared
    committed: Committed
    written: int


def carry_out(
    prepared: Prepared,
    destination: Destination,
    *,
    progress: Progress = lambda done: None,
    phase: Callable[[str, int], None] = lambda name, total: None,
    lock: Lock | None = None,
) -> Outcome:
    """Write the result: check the claims, fill a temporary file, verify it, give it its name.

    progress gets the bytes of each write; phase gets the name and size of each stage.
    """
    output = build_output(prepared, destination.path)
    stored = prepared.opened.stored
    fd = open_regular(stored.path)
    try:
        source = SourceFile(fd, stored, output.tensors)
        phase("check", 0)
        with explained(destination.path):
            check_unchanged(stored.path, stored.identity)
            check_claims(prepared.plan.checks, source)

        def fill_slots(target: int) -> Mapping[str, int]:
            phase("write", output.image.size)
            return fill(target, output.image, output.work, source, progress)

        def verify(path: Path, target: int) -> None:
            phase("verify", 0)
            verify_file(path, prepared)

        committed = commit(
            destination,
            output.image,
            fill_slots,
            source=stored.path,
            source_identity=stored.identity,
            verify=verify,
            lock=lock,
        )
    finally:
        os.close(fd)
    return Outcome(prepared, committed, output.image.size)


def build_output(prepared: Prepared, path: Path) -> Output:
    """The file that the plan becomes under a name: its suffix chooses the format."""
    request, stored = prepared.request, prepared.opened.stored
    tree = prepared.plan.trace.end.meta.tree
    layout = _layout_of(tree, prepared)
    # A file that keeps its suffix keeps its format, also where the suffix promises another one.
    is_renamed = path.suffix != stored.path.suffix
    return make_output(
        prepared.plan,
        stored,
        layout,
        tree,
        gone=_dropped_state(layout, request),
        format=format_of(path, stored.format) if is_renamed else stored.format,
        tag=prepared.tag.to_json(),
        unwrap=request.unwrap,
        weights_only=request.weights_only,
    )


def _layout_of(tree: object, prepared: Prepared) -> Layout:
    """Where everything is once metadata was edited: what is no tensor may have moved."""
    opened, request, project = prepared.opened, prepared.request, prepared.project
    if opened.stored.format == "safetensors" or tree is opened.stored.tree:
        return opened.layout
    return find_weights(
        replace(opened.stored, tree=tree),
        weights=request.weights or project.weights,
        wrappers=project.wrappers,
    )


def _dropped_state(layout: Layout, request: Request) -> Sequence[tuple[object, ...]]:
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    return [o.path for o in layout.training_state if policy.get(o.kind) == "drop"]
