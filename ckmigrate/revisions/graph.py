"""The graph of revisions: which scripts lie between two states of a checkpoint.

A history is a directed graph without cycles. It starts at one base (the state before the first
script, written None), may fork into branches, and branches are joined by a merge script, whose
`revises` is a tuple. What has to run between two revisions is always read off the graph, never off
numbers or dates: a script that was merged late is an ancestor like every other, and is not skipped.
The graph knows nothing of tensors or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ckmigrate.errors import HistoryError, IdentifyError, MigrationError
from ckmigrate.journal import JOURNAL, being_changed
from ckmigrate.revisions.order import (
    check_bases,
    check_former,
    children_of,
    former_ids,
    nearest_scripts,
    ordered,
    reachable,
    scripts_by_id,
)
from ckmigrate.revisions.script import Script, read_script
from ckmigrate.revisions.squashed import (
    check_squashed,
    pruned_away,
    pruned_ids,
    set_aside,
    shortened,
)

__all__ = ["History", "build_history", "read_history", "read_scripts"]


@dataclass(frozen=True, slots=True)
class History:
    """A valid history; `read_history` and `build_history` are the ways to get one.

    folder    where the scripts are
    order     all scripts, parents first; among those that are ready, by file number, then by id
    scripts   the same by revision id
    children  ids of the scripts that revise an id, in order; under None, the first script
    squashed  squashed scripts that stand beside their originals, by the id that they lead to; they
              are in no order and have no children, but `path_up` takes them
    pruned    revisions whose script is gone, with the squashed script that it became part of
    """

    folder: Path
    order: tuple[Script, ...]
    scripts: Mapping[str, Script]
    children: Mapping[str | None, tuple[str, ...]]
    squashed: Mapping[str, Script] = field(default_factory=dict)
    pruned: Mapping[str, Script] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, revision: object) -> bool:
        return revision in self.scripts

    @property
    def heads(self) -> tuple[str, ...]:
        """Ids that no script revises; empty for an empty history."""
        return tuple(script.id for script in self.order if not self.children[script.id])

    @property
    def roots(self) -> tuple[str, ...]:
        """Ids that revise nothing: one, or none for an empty history."""
        return self.children[None]

    def rebased(self, revision: str) -> Script | None:
        """The script that had this id before a rebase; None for any other id."""
        return former_ids(self.scripts).get(revision)

    def script(self, revision: str) -> Script:
        """The script with this full id; IdentifyError CKM401 when the history does not have it,
        CKM415 when it was pruned."""
        if revision in self.pruned:
            raise pruned_away(revision, self.pruned[revision])
        if revision not in self.scripts:
            raise IdentifyError(
                "CKM401",
                f"this history has no revision '{revision}'",
                where=str(self.folder),
                why=nearest_scripts(revision, self.scripts)
                or f"it has {len(self)} other script(s)",
                fix="Get the version of this project that knows the revision, or name another.",
            )
        return self.scripts[revision]

    def parents(self, revision: str) -> tuple[str, ...]:
        """The ids that a script builds on, as it names them."""
        return self.script(revision).parents

    def ancestors(self, revision: str) -> frozenset[str]:
        """Every id that comes before this one on some way from the base; not the id itself."""
        self.script(revision)
        return reachable(revision, self.scripts) - {revision}

    def shared(self, revisions: Iterable[str]) -> tuple[Script, ...]:
        """The scripts that come before all of these or are one of them, in order; the last one is
        where they part."""
        behind = [self._with_ancestors(revision) for revision in revisions]
        both = frozenset.intersection(*behind) if behind else frozenset()
        return tuple(script for script in self.order if script.id in both)

    def require_single_head(self) -> str | None:
        """The one head (None where the history is empty); HistoryError CKM316 when it forks."""
        heads = self.heads
        if len(heads) > 1:
            raise HistoryError(
                "CKM316",
                f"the history has {len(heads)} heads",
                where=str(self.folder),
                details=tuple(self.scripts[head].label for head in heads),
                why="two branches were never joined, so there is no single newest revision",
                fix=f"Put yours behind the other: ckmigrate rebase --onto {heads[0]}; or join them,"
                " where checkpoints of both are out: ckmigrate merge.",
            )
        return heads[0] if heads else None

    def path_up(
        self, current: str | None, to: str | None, *, originals: bool = False
    ) -> tuple[Script, ...]:
        """The scripts to run, in order, to come from `current` up to `to` (None is the base).

        Every ancestor-or-self of `to` that is not an ancestor-or-self of `current`; a squashed
        script in place of its originals where all of them would run, unless `originals`. Raises
        MigrationError CKM511 when `current` does not lead to `to`, IdentifyError CKM401 when one of
        them is unknown.
        """
        have, want = self._with_ancestors(current), self._with_ancestors(to)
        if current is not None and current not in want:
            raise self._no_way(current, to, is_past=to is None or to in have)
        way = tuple(script for script in self.order if script.id in want - have)
        return way if originals else shortened(way, self.squashed, self.scripts)

    def path_down(self, current: str | None, to: str | None) -> tuple[Script, ...]:
        """The scripts to undo, in order, to come from `current` down to `to` (None is the base).

        `path_up(to, current)` backwards, with the same errors.
        """
        have = self._with_ancestors(current)
        if to is not None and self.script(to).id not in have:
            is_before = current is None or current in self.ancestors(to)
            raise self._no_way(current, to, is_before=is_before)
        return tuple(reversed(self.path_up(to, current)))

    def label(self, revision: str | None) -> str:
        """How messages name a revision; None is the base."""
        return "base" if revision is None else self.script(revision).label

    def _with_ancestors(self, revision: str | None) -> frozenset[str]:
        if revision is None:
            return frozenset()
        return self.ancestors(revision) | {revision}

    def _no_way(
        self,
        current: str | None,
        to: str | None,
        *,
        is_past: bool = False,
        is_before: bool = False,
    ) -> MigrationError:
        here, there = self.label(current), self.label(to)
        if is_past:
            what, fix = f"{here} is already past {there}", "Use `ckmigrate downgrade` to go back."
            return MigrationError("CKM511", what, why=f"{there} comes before it", fix=fix)
        if is_before:
            what, fix = f"{here} is before {there}", "Use `ckmigrate upgrade` to go forward."
            return MigrationError("CKM511", what, why=f"{there} comes after it", fix=fix)
        return self._other_branch(current, to)

    def _other_branch(self, current: str | None, to: str | None) -> MigrationError:
        have, want = self._with_ancestors(current), self._with_ancestors(to)
        shared = [script for script in self.order if script.id in have & want]
        heads = tuple(head for head in self.heads if current in self._with_ancestors(head))
        joined = [head for head in heads if to in self._with_ancestors(head)]
        fix = (
            "Join the branches (ckmigrate merge) or put one behind the other (ckmigrate rebase), "
            "then go to the head."
        )
        if joined:
            fix = f"Go to {self.label(joined[0])}, which contains both."
        return MigrationError(
            "CKM511",
            f"{self.label(current)} and {self.label(to)} are on different branches",
            where=str(self.folder),
            details=tuple(f"{self.label(current)} leads to {self.label(head)}" for head in heads),
            why=f"the branches part after {shared[-1].label if shared else 'base'}",
            fix=fix,
        )


def read_history(folder: Path) -> History:
    """Read the history of a folder; an empty one is a valid, empty history.

    Raises HistoryError: what `read_scripts` and `build_history` raise.
    """
    return build_history(read_scripts(folder), folder=folder)


def read_scripts(folder: Path) -> list[Script]:
    """Read every script of a folder: `*.py`, except names that start with `_` or `.`.

    Raises HistoryError: CKM301 to CKM308 for a script (the first one; others that cannot be read
    are listed with it), CKM310 when the folder cannot be read, CKM338 while scripts change.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise HistoryError(
            "CKM310",
            "cannot read the folder of migrations",
            where=str(folder),
            why=error.strerror or str(error),
            fix="Run `ckmigrate init`, or correct 'migrations' in the configuration.",
        ) from error
    for entry in entries:
        if entry.name == JOURNAL:
            raise being_changed(entry)
    return _read_each(filter(_is_script, entries))


def build_history(scripts: Iterable[Script], *, folder: Path) -> History:
    """Check that scripts form one history, and order them.

    Raises HistoryError: CKM311 (one id twice), CKM312 (a parent is missing), CKM313 (a cycle),
    CKM314 (a merge that joins nothing), CKM315 (several bases), CKM317 (a squashed script that does
    not stand for what is there), CKM337 (a script beside what a rebase made of it).
    """
    plain, beside = set_aside(scripts)
    by_id = scripts_by_id(plain)
    check_squashed(by_id, beside)
    check_former(by_id)
    order = ordered(by_id)
    check_bases(order, folder)
    return History(
        folder,
        order,
        MappingProxyType(by_id),
        MappingProxyType(children_of(order)),
        MappingProxyType(beside),
        MappingProxyType(pruned_ids(by_id)),
    )


def _is_script(path: Path) -> bool:
    # A dangling link is kept, so that reading it fails: a script is never skipped in silence.
    return path.suffix == ".py" and not path.name.startswith(("_", ".")) and not path.is_dir()


def _read_each(paths: Iterable[Path]) -> list[Script]:
    scripts: list[Script] = []
    errors: list[HistoryError] = []
    for path in paths:
        try:
            scripts.append(read_script(path))
        except HistoryError as error:
            errors.append(error)
    if not errors:
        return scripts
    first, *others = errors
    first.details += tuple(f"{other.where}: {other.what}" for other in others)
    raise first
