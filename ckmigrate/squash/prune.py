"""Pruning: the scripts that a squashed one replaces go, and it keeps what only they told."""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckmigrate.errors import HistoryError
from ckmigrate.identify import Replay
from ckmigrate.project import Project
from ckmigrate.revisions.graph import History, build_history
from ckmigrate.revisions.script import Script, parse_script
from ckmigrate.revisions.squashed import stretch_of
from ckmigrate.squash.git import commit_of, uncommitted
from ckmigrate.squash.squash import prove

__all__ = ["Prune", "plan_prune", "pruned"]


@dataclass(frozen=True, slots=True)
class Prune:
    """One squashed script, the scripts that go, and its text with the record of them."""

    squash: Script
    removed: tuple[Script, ...]
    record: Mapping[str, object]
    text: str

    @property
    def files(self) -> dict[Path, bytes | None]:
        """What becomes of the files of scripts; None: it goes."""
        gone = dict.fromkeys(script.path for script in self.removed)
        return {self.squash.path: self.text.encode(), **gone}


def plan_prune(
    project: Project,
    history: History,
    squash: Script,
    replays: Mapping[str, Replay],
    params: Mapping[str, object],
    *,
    force: bool = False,
) -> Prune:
    """What pruning would do; nothing is written.

    MigrationError CKM513 or CKM514 where the proof does not hold now, HistoryError CKM326 where git
    does not keep the scripts, unless `force`.
    """
    removed = stretch_of(squash, history.scripts) or ()
    prove(removed, replays, params, squash)
    if not force:
        _require_kept(history, (*removed, squash))
    record = _record(project, history, removed)
    return Prune(squash, removed, record, _with_record(squash.source, record))


def _require_kept(history: History, scripts: tuple[Script, ...]) -> None:
    """What is removed here must be found again by whoever has a checkpoint in between."""
    found = uncommitted(history.folder, [script.path for script in scripts])
    if found == ():
        return
    why = "there is no git repository with a commit" if found is None else "git does not have them"
    raise HistoryError(
        "CKM326",
        "the scripts that would be removed are kept nowhere else",
        where=str(history.folder),
        details=found or (),
        why=f"{why}; a checkpoint from inside the stretch can be upgraded only with them",
        fix="Commit them first, with the squashed script; --force removes them all the same.",
    )


def _record(project: Project, history: History, removed: tuple[Script, ...]) -> dict[str, object]:
    """Of the project as it still has the scripts: its version, newest release and commit."""
    releases = {
        release: revision
        for s in removed
        for release, revision in (
            *s.pruned.get("releases", {}).items(),
            *([(s.release, s.id)] if s.release and s is not removed[-1] else []),
        )
    }
    newest = [s.release for s in history.order if s.release]
    found: dict[str, object] = {"releases": releases} if releases else {}
    version, commit = _version(project), commit_of(history.folder)
    found |= {"version": version} if version else {}
    found |= {"release": newest[-1]} if newest else {}
    return found | ({"commit": commit} if commit else {})


def _version(project: Project) -> str | None:
    """What pyproject.toml says; None where it leaves the version to a tool."""
    try:
        data = tomllib.loads((project.root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    package = data.get("project")
    version = package.get("version") if isinstance(package, dict) else None
    return version if isinstance(version, str) else None


def _with_record(source: str, record: Mapping[str, object]) -> str:
    """The text with `pruned = {…}` below `replaces`, in place of an older one."""
    ends: dict[str, tuple[int, int]] = {}
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name):
                ends[target.id] = (statement.lineno, statement.end_lineno or statement.lineno)
    lines = source.split("\n")
    entry = [f"pruned = {json.dumps(record, indent=4, ensure_ascii=False)}"]
    entry = entry[0].replace('"\n', '",\n').replace("}\n", "},\n").split("\n")
    first, last = ends.get("pruned", (ends["replaces"][1] + 1, ends["replaces"][1]))
    return "\n".join([*lines[: first - 1], *entry, *lines[last:]])


def pruned(history: History, prunes: Sequence[Prune]) -> History:
    """The history once these are carried out; nothing is read."""
    texts = {prune.squash: prune.text for prune in prunes}
    gone = {script for prune in prunes for script in prune.removed}
    scripts = [
        parse_script(texts[one].encode(), one.path) if one in texts else one
        for one in (*history.order, *history.squashed.values())
        if one not in gone
    ]
    return build_history(scripts, folder=history.folder)
