"""Changed scripts together with what the project records of them, as one set of files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ckmigrate.locking import record_files
from ckmigrate.migrate import replays
from ckmigrate.project import Project
from ckmigrate.report.escape import printable
from ckmigrate.revisions.graph import History

__all__ = ["file_names", "with_record"]


def with_record(
    project: Project,
    history: History,
    scripts: Mapping[Path, bytes | None],
    params: Mapping[str, object],
    *,
    allow_edited: Collection[str] = (),
) -> dict[Path, bytes | None]:
    """The files of scripts, then the lock and the head snapshots as they are with this history,
    where the project has a lock. Raises what `ckmigrate.locking.record_files` raises."""
    if not project.lock_path.exists():
        return dict(scripts)
    known = replays(project, history, params)
    record = record_files(project, history, known, allow_edited=allow_edited)
    return {**scripts, **{path: text.encode() for path, text in record.items()}}


def file_names(project: Project, paths: Iterable[Path]) -> str:
    """Paths within the project, in one line."""
    return ", ".join(printable(_within(project, path)) for path in paths)


def _within(project: Project, path: Path) -> Path:
    return path.relative_to(project.root) if path.is_relative_to(project.root) else path
