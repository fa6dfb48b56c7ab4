"""One checkpoint through the whole pipeline: `prepare` decides, `carry_out` writes.

The command line and the Python interface both stand on these two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ckmigrate.contents import Contents
from ckmigrate.execute.commit import Committed, Destination, Fill, check_unchanged, commit
from ckmigrate.execute.failures import explained
from ckmigrate.execute.fill import Progress, check_claims, fill
from ckmigrate.execute.lock import Lock
from ckmigrate.execute.source import open_source
from ckmigrate.find_target import find_target, finding_once
from ckmigrate.formats.base import Stored
from ckmigrate.opened import (
    Opened,
    Request,
    dropped_state,
    edited,
    identify_opened,
    open_weights,
    replays,
)
from ckmigrate.output import (
    Output,
    OutputFile,
    becomes_folder,
    folder_format,
    format_of,
    make_output,
)
from ckmigrate.prepare import Direction, Prepared, prepare
from ckmigrate.training.layouts import Layout
from ckmigrate.verify import verify_file

__all__ = [
    "Direction",
    "Opened",
    "Outcome",
    "Prepared",
    "Request",
    "build_output",
    "carry_out",
    "contents_of",
    "dropped_state",
    "find_target",
    "finding_once",
    "identify_opened",
    "layout_after",
    "open_weights",
    "prepare",
    "replays",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A migration that was carried out; `written` counts bytes.

    fast   it was done in place, and `committed.backup` is an undo record
    spare  bytes of the file that belong to nothing any more
    """

    prepared: Prepared
    committed: Committed
    written: int
    fast: bool = False
    spare: int = 0


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
    stored = prepared.opened.stored
    destination = _settled(prepared, destination)
    output = build_output(prepared, destination.path, folder=destination.folder)
    with open_source(stored, output.tensors) as source:
        phase("check", 0)
        with explained(destination.path):
            check_unchanged(stored.files)
            check_claims(prepared.plan.checks, source)
        started: list[str] = []

        def filler(name: str, file: OutputFile) -> Fill:
            def fill_slots(target: int) -> Mapping[str, int]:
                if not started:
                    phase("write", output.size)
                started.append(name)
                return fill(target, file.image, file.work, source, progress)

            return fill_slots

        def verify(path: Path) -> None:
            phase("verify", 0)
            is_named = output.index is not None and output.format == "sharded"
            verify_file(path / str(output.index) if is_named else path, prepared)

        committed = _commit(stored, destination, output, filler, verify, lock)
    return Outcome(prepared, committed, output.size)


def _settled(prepared: Prepared, destination: Destination) -> Destination:
    """The destination, with the decision whether it becomes a folder."""
    is_folder = becomes_folder(
        destination.path,
        source_is_folder=prepared.opened.stored.folder is not None,
        in_place=destination.in_place,
        wanted=destination.folder or prepared.request.wants_folder,
    )
    return replace(destination, folder=is_folder)


def _commit(
    stored: Stored,
    destination: Destination,
    output: Output,
    filler: Callable[[str, OutputFile], Fill],
    verify: Callable[[Path], None],
    lock: Lock | None,
) -> Committed:
    if not output.is_folder:
        (file,) = output.files.values()
        return commit(
            destination,
            file.image,
            filler("", file),
            source=stored.path,
            sources=stored.files,
            verify=lambda path, _: verify(path),
            lock=lock,
        )
    from ckmigrate.execute.commit_folder import commit_folder
    from ckmigrate.execute.folder_image import FolderImage, NewFile

    files = {name: NewFile(f.image, filler(name, f)) for name, f in output.files.items()}
    carried = {name: stored.path / name for name in output.carried}
    return commit_folder(
        destination,
        FolderImage(
            files,
            output.shards,
            output.index,
            carried,
            output.empty,
            output.replaced if output.format == "dcp" else None,
            output.interim,
        ),
        source=stored.path,
        sources=stored.files,
        verify=verify,
        lock=lock,
    )


def build_output(
    prepared: Prepared, path: Path, *, folder: bool = False, in_place: bool = False
) -> Output:
    """What the plan becomes under a name: a folder where that is wanted, otherwise a file whose
    suffix chooses the format. In place, the data files of a DCP folder stay as they are."""
    request, contents = prepared.request, contents_of(prepared)
    stored = contents.stored
    if folder and folder_format(stored, request.to_format, request.max_shard_size) == "dcp":
        from ckmigrate.output_dcp import make_dcp

        return make_dcp(contents, in_place=in_place)
    if stored.format != "sharded":
        # A distributed checkpoint becomes anything else as a nested dict in one file does.
        contents = replace(contents, stored=replace(stored, folder=None))
    if folder:
        from ckmigrate.output_folder import make_folder

        return make_folder(contents, max_shard_size=request.max_shard_size)
    # A file that keeps its suffix keeps its format, also where the suffix promises another one.
    keeps = path.suffix == stored.path.suffix and stored.format in ("safetensors", "torch")
    return make_output(contents, stored.format if keeps else format_of(path, stored.format))


def contents_of(prepared: Prepared) -> Contents:
    """What is to be written of a checkpoint."""
    request, layout = prepared.request, layout_after(prepared)
    return Contents(
        plan=prepared.plan,
        stored=prepared.opened.stored,
        layout=layout,
        tree=prepared.plan.trace.end.meta.tree,
        gone=dropped_state(layout, request),
        tag=prepared.tag.to_json(),
        unwrap=request.unwrap,
        weights_only=request.weights_only,
    )


def layout_after(prepared: Prepared) -> Layout:
    """Where everything is once metadata was edited."""
    tree = prepared.plan.trace.end.meta.tree
    return edited(prepared.opened, tree, prepared.project, prepared.request).layout
