"""Stamping checkpoints while they are saved: `ckmigrate.tag` and its kin.

    torch.save({"model": model.state_dict(), **ckmigrate.tag()}, path)
    save_file(model.state_dict(), path, metadata=ckmigrate.tag_metadata())
    dcp.save({"model": model.state_dict(), "ckmigrate": ckmigrate.Stamp()}, checkpoint_id=folder)

The tag says that the checkpoint is at the head of the history as it is now. A run that lasts makes
it once, before the training begins: the files of the project may be of another version by the time
that it saves.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckmigrate.asking import Place, project_at
from ckmigrate.committed_head import committed_head
from ckmigrate.errors import (
    IdentifyError,
    MigrationError,
    StorageError,
    UsageError,
    VerificationError,
)
from ckmigrate.execute.preflight import Destination
from ckmigrate.formats.torch_tag import TAG_KEY
from ckmigrate.opened import Request, replays
from ckmigrate.prepare import prepare
from ckmigrate.project import Project
from ckmigrate.report.revisions import revision_text
from ckmigrate.report.schema import ellipsis_list
from ckmigrate.revisions.graph import History, read_history
from ckmigrate.spec import Schema
from ckmigrate.strict import compare, describe
from ckmigrate.tagging import Tag, parse_tag, tag_at
from ckmigrate.target import Target, bare_module, target_of
from ckmigrate.writing import Watcher, Way, write_checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["Stamp", "stamp_folder", "tag", "tag_metadata"]

_MOST_LINES = 20
_NO_ROOM = ("CKM580", "CKM776")
"""A change in place needs more than headers, or headers have no room for it."""


def tag(model: torch.nn.Module | None = None, *, project: Place | None = None) -> dict[str, str]:
    """The tag of a checkpoint at the head, to be saved beside the state dict.

    model    is compared with what the migrations lead to first, so that the tag is true
    project  whose history; that of the working directory by default

    Raises UsageError CKM20x (no project), CKM271 (nothing to compare a model with), HistoryError
    (CKM316: two heads), VerificationError CKM622 where the model is not at the head.
    """
    found = project_at(project)
    history = read_history(found.migrations)
    return {TAG_KEY: _head_tag(found, history, model).to_json()}


def tag_metadata(
    model: torch.nn.Module | None = None, *, project: Place | None = None
) -> dict[str, str]:
    """The same as metadata of a safetensors file, with the format that loaders ask for there."""
    return {"format": "pt", **tag(model, project=project)}


class Stamp:
    """The tag as a part of the state of a distributed checkpoint, made when the Stamp is.

    `torch.distributed.checkpoint` takes it for a Stateful object. On loading it refuses a
    checkpoint that is at another revision: names and shapes may be those of today's model even so.
    """

    def __init__(
        self, model: torch.nn.Module | None = None, *, project: Place | None = None
    ) -> None:
        self._text = tag(model, project=project)[TAG_KEY]

    def state_dict(self) -> str:
        """What is saved."""
        return self._text

    def load_state_dict(self, text: str) -> None:
        """Compare with what was saved; IdentifyError CKM417 where it is of another revision."""
        ours, theirs = parse_tag(self._text), parse_tag(text)
        if (ours.project, ours.revision) != (theirs.project, theirs.revision):
            raise IdentifyError(
                "CKM417",
                f"the checkpoint is at {_shown(theirs)}, and this project at {_shown(ours)}",
                why=f"It was written by {theirs.writer} for project '{theirs.project}'.",
                fix="Migrate it first: ckmigrate upgrade PATH --in-place. The model has loaded it "
                "by now; load the result again.",
            )


def stamp_folder(folder: Path, project: Project, history: History) -> None:
    """Tag a folder of weights that was just saved, in place: by its headers where that can be done,
    otherwise by writing its shards again. Nothing is kept of the untagged one."""
    head = history.require_single_head() or "base"
    request = Request(to=head, from_revision=head, use_model=False)
    for fast in (True, False):
        way = Way(in_place=True, fast=fast, backup=False)
        try:
            write_checkpoint(
                folder,
                lambda path: prepare(project, history, path, request),
                lambda prepared: Destination(folder, in_place=True, folder=True),
                way,
                Watcher(),
            )
        except (MigrationError, StorageError) as error:
            if not fast or error.code not in _NO_ROOM:
                raise
        else:
            return


def _shown(tag: Tag) -> str:
    return f"{tag.name} ({tag.revision})" if tag.revision else "base"


def _head_tag(project: Project, history: History, model: torch.nn.Module | None) -> Tag:
    head = history.require_single_head()
    if model is not None:
        _require_head(project, history, head, model)
    return tag_at(project.name, history, head)


def _require_head(
    project: Project, history: History, head: str | None, model: torch.nn.Module
) -> None:
    """VerificationError CKM622 unless the model has a schema that the migrations lead to."""
    target = target_of(bare_module(model, project.wrappers), "the given one")
    known = _heads(project, history, head)
    if not known:
        raise UsageError(
            "CKM271",
            "there is no snapshot to compare the model with",
            where=str(project.snapshot_path("default").parent),
            why="The schema of the base, led through the scripts, says what is at the head.",
            fix="Commit one (ckmigrate init --from-checkpoint PATH), or leave the model out.",
        )
    found = [compare(_as_saved(target, wanted), wanted, exempt=project.exempt) for wanted in known]
    nearest = min(found, key=len)
    if nearest:
        lines = describe(nearest, found="model", wanted="head")
        raise VerificationError(
            "CKM622",
            f"the model is not at {revision_text(history, head)}",
            details=tuple(ellipsis_list(lines, _MOST_LINES)),
            why="A checkpoint of it must not be tagged as if it were: its tensors are not those "
            "that the migrations lead to.",
            fix='Write the migration that is missing (ckmigrate revision -m "…"). If it is another '
            "size of the same architecture, give it a snapshot, or call tag() without the model.",
        )


def _as_saved(target: Target, wanted: Schema) -> Schema:
    """The entries of a model, without second names of tied ones that the head does not have."""
    spare = {
        name
        for group in target.ties
        if any(other in wanted for other in group)
        for name in group
        if name not in wanted
    }
    return Schema((name, spec) for name, spec in target.schema.items() if name not in spare)


def _heads(project: Project, history: History, head: str | None) -> list[Schema]:
    """The schemas of the head, one for each model that has a snapshot."""
    found: list[Schema] = []
    for name, replay in replays(project, history, {}).items():
        committed = committed_head(project, history, name)
        schema = committed.schema if committed else replay.schema(head)
        found += [schema] if schema is not None else []
    return found
