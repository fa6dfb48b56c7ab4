"""A checkpoint that was read but for its tensors: where its weights sit, and its revision."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckmigrate.errors import IdentifyError
from ckmigrate.execute.source import is_plain
from ckmigrate.execute.undo import require_settled
from ckmigrate.formats.base import Stored
from ckmigrate.formats.folder_names import JSON_ROOTS, folder_of, is_shard_name
from ckmigrate.formats.open_checkpoint import open_checkpoint
from ckmigrate.identify import Identity, Replay, identify
from ckmigrate.meta import Meta
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History
from ckmigrate.snapshot import read_snapshot
from ckmigrate.spec import Schema
from ckmigrate.training.layouts import Layout, find_weights
from ckmigrate.uncollected import uncollected

if TYPE_CHECKING:
    from ckmigrate.revisions.lock import Lock

__all__ = [
    "Opened",
    "Policy",
    "Request",
    "dropped_state",
    "edited",
    "identify_opened",
    "open_weights",
    "replays",
]

Policy = Literal["carry", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for.

    to             a revision, as `ckmigrate.revisions.targets.resolve` reads it
    from_revision  overrides identification
    model          name of one of the configured models; None where there is only one
    use_model      compare with the model and load into it (needs torch); otherwise with the
                   snapshot that the scripts make of the base schema
    model_for_order  build the model all the same where an optimizer counts its parameters, which
                   only the model can number anew
    optimizer, ema what to do with training state: let it follow the weights, or leave it behind
    param_order    names of the parameters of the optimizers of the file, over all of their groups,
                   and the file that says so; None: worked out
    max_shard_size bytes of tensors in a file; the result then is a folder with a new layout
    to_format      "dcp": the result is a distributed checkpoint, whatever the source is
    """

    to: str = "head"
    from_revision: str | None = None
    model: str | None = None
    use_model: bool = True
    model_for_order: bool = False
    params: Mapping[str, object] = field(default_factory=dict)
    weights: str | None = None
    carry: tuple[str, ...] = ()
    optimizer: Policy = "carry"
    ema: Policy = "carry"
    param_order: tuple[str, ...] | None = None
    param_order_source: str = ""
    weights_only: bool = False
    unwrap: bool = False
    max_memory: int | None = None
    max_shard_size: int | None = None
    to_format: Literal["dcp"] | None = None
    full_verify: bool = False

    @property
    def wants_folder(self) -> bool:
        """Whether the result is a folder whatever the source is."""
        return self.max_shard_size is not None or self.to_format is not None


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that was read but for its tensors, and where its weights sit."""

    stored: Stored
    layout: Layout

    @property
    def schema(self) -> Schema:
        return Schema((name, tensor.spec) for name, tensor in self.layout.entries.items())

    @property
    def meta(self) -> Meta:
        if self.stored.is_flat:
            free = JSON_ROOTS if self.stored.folder else ()
            return Meta(dict(self.stored.metadata), text_only=True, free=free)
        return Meta(self.stored.tree, weights=self.layout.path)

    def is_plain(self, name: str) -> bool:
        tensor = self.layout.entries[name]
        return tensor.spec.numel == 0 or is_plain(tensor, self.stored.records[tensor.storage.key])


@uncollected()
def open_weights(path: Path, project: Project, request: Request) -> Opened:
    """Read a checkpoint and find its weights; StorageError CKM773 where a change of it in place is
    not done."""
    require_settled(folder_of(path))
    stored = open_checkpoint(path, carry=(*project.carry, *request.carry))
    return Opened(stored, _layout(stored, project, request))


def edited(opened: Opened, tree: object, project: Project, request: Request) -> Opened:
    """The checkpoint once its metadata was edited: what is no tensor may have moved."""
    if opened.stored.is_flat or tree is opened.stored.tree:
        return opened
    stored = replace(opened.stored, tree=tree)
    return Opened(stored, _layout(stored, project, request))


def _layout(stored: Stored, project: Project, request: Request) -> Layout:
    return find_weights(
        stored,
        weights=request.weights or project.weights,
        wrappers=project.wrappers,
        optimizers=project.optimizers,
        copies=project.copies,
    )


def dropped_state(layout: Layout, request: Request) -> tuple[tuple[object, ...], ...]:
    """Paths of training state that the request leaves behind."""
    policy = {"optimizer": request.optimizer, "copy": request.ema}
    return tuple(o.path for o in layout.training_state if policy.get(o.kind) == "drop")


def replays(project: Project, history: History, params: Mapping[str, object]) -> dict[str, Replay]:
    """A replay of the history for every model that has a committed base snapshot."""
    folder = project.snapshot_path("any").parent
    if not folder.is_dir():
        return {}
    merged = {**project.params, **params}
    return {
        path.stem: Replay(history, read_snapshot(path), merged)
        for path in sorted(folder.glob("*.json"))
    }


def identify_opened(
    opened: Opened,
    project: Project,
    history: History,
    request: Request,
    *,
    known: Mapping[str, Replay] | None = None,
) -> Identity:
    """The revision of an opened checkpoint; `known` saves replaying the history once more.

    IdentifyError CKM408 where the parts of a folder do not agree on their tag.
    """
    _require_one_tag(opened.stored, request)
    try:
        return identify(
            history,
            project=project.name,
            tag_text=opened.stored.tag,
            schema=opened.schema,
            meta=opened.meta,
            release_keys=project.release_keys,
            replays=replays(project, history, request.params) if known is None else known,
            ties=opened.layout.ties,
            override=request.from_revision,
            find_lock=functools.partial(_lock_of, project),
        )
    except IdentifyError as error:
        error.where = error.where or str(opened.stored.path)
        if error.code == "CKM414" and is_shard_name(opened.stored.path.name):
            error.why = "Its name says that it is one of several shards."
            error.fix = (
                "Give the folder that it is in, with all shards and their index (*.index.json)."
            )
        raise


def _lock_of(project: Project) -> Lock | None:
    from ckmigrate.revisions.lock import read_lock  # few questions lead to it

    return read_lock(project.lock_path)


def _require_one_tag(stored: Stored, request: Request) -> None:
    if stored.tag_fault is None or request.from_revision is not None:
        return
    raise IdentifyError(
        "CKM408",
        "the files of the checkpoint have different tags",
        where=str(stored.path),
        why=f"{stored.tag_fault}. Files of two versions may be mixed.",
        fix="Download the checkpoint again; if you know the revision of its tensors, say it with "
        "--from REV, or record it with `ckmigrate stamp`.",
    )
