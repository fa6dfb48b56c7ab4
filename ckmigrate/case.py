"""One question about one checkpoint, as it is before a script runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ckmigrate.compile import State, start
from ckmigrate.errors import CkmigrateError
from ckmigrate.find_target import FindTarget
from ckmigrate.identify import Identity, Replay
from ckmigrate.opened import Opened, Request
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History

__all__ = ["Case", "contradiction_told"]


@dataclass(frozen=True, slots=True)
class Case:
    """What is known before a script runs: the question, the file, and where it stands."""

    project: Project
    history: History
    request: Request
    opened: Opened
    identity: Identity
    wanted: str | None
    known: Mapping[str, Replay]
    find: FindTarget

    @property
    def params(self) -> dict[str, object]:
        return {**self.project.params, **self.request.params}

    @property
    def start(self) -> State:
        opened = self.opened
        return start(opened.schema, ties=opened.layout.ties, meta=opened.meta)


@contextmanager
def contradiction_told(case: Case) -> Iterator[None]:
    """What fails after `--from` contradicted the tag fails most likely because of that: the error
    says so."""
    try:
        yield
    except CkmigrateError as error:
        tag, history = case.identity.tag, case.history
        if tag is not None and case.identity.contradicts_tag:
            written = f"{tag.name} ({tag.revision})" if tag.revision else "base"
            said = history.label(case.identity.revision)
            line = f"--from {said} contradicts the tag of the checkpoint, which says {written}"
            error.details = (line, *error.details)
        raise
