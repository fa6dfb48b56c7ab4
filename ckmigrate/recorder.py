"""The state behind the symbolic checkpoint: expressions by name, and a record of every change.

Each operation is resolved into steps elsewhere; here the steps of one call are applied all at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ckmigrate.call_text import call_text
from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr
from ckmigrate.meta import Meta, MetaEdit
from ckmigrate.operations.rename import Renames
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Check, Schemas, Step, refuse
from ckmigrate.ties import Ties, moved_ties, still_tied

__all__ = ["Record", "Recorder", "Take"]


@dataclass(frozen=True, slots=True)
class Record:
    """One call of an operation: its arguments as text, its line, its steps, and the specs of the
    whole checkpoint before and after. A call on metadata has an edit and no steps."""

    operation: str
    arguments: str
    line: int | None
    steps: Sequence[Step] = ()
    before: Schemas = ()  # type: ignore[assignment]
    after: Schemas = ()  # type: ignore[assignment]
    edit: MetaEdit | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """One call of `take`; equal only to itself."""

    name: str
    line: int | None


class _Specs(Mapping[str, TensorSpec]):
    """The specs of a mapping of expressions, without building a second mapping."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, Expr]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> TensorSpec:
        return self._entries[name].spec

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


class Recorder:
    """Entries, ties and metadata of a symbolic checkpoint, and what a script did to them.

    script and path are the name and the place of the script, for the lines of records and errors.
    """

    def __init__(
        self, entries: Mapping[str, Expr], ties: Ties, meta: Meta, *, script: str, path: str
    ) -> None:
        self.entries = entries  # replaced by every step, never changed
        self._ties = ties
        self.meta = meta
        self.records: list[Record] = []
        self.checks: list[Check] = []
        self.taken: list[Take] = []
        self.absent: dict[str, int | None] = {}
        self._script = script
        self._path = path

    @property
    def ties(self) -> Ties:
        """Groups of names that are one tensor as the entries are now."""
        return still_tied(self._ties, self.entries)

    @property
    def specs(self) -> Schemas:
        """The specs of the entries as they are now; later steps do not change it."""
        return _Specs(self.entries)

    def require(self, name: str) -> Expr:
        found = self.entries.get(name)
        if found is None:
            from ckmigrate.names import nearest

            near = nearest(name, self.entries) if isinstance(name, str) else ()
            raise refuse(
                "CKM531",
                f"the checkpoint has no entry {name!r}",
                why=f"Nearest: {', '.join(near)}." if near else "Nothing is named like it.",
                fix=f"Correct the name, or ask first: if {name!r} in ck.",
            )
        return found

    @contextmanager
    def operation(
        self, operation: str, *args: object, **kwargs: object
    ) -> Iterator[Callable[[Sequence[Step]], None]]:
        """Record one call: the block resolves its steps and hands them over."""

        def apply(steps: Sequence[Step]) -> None:
            before = self.specs
            self.apply(steps)
            text = call_text(args, kwargs)
            self.records.append(Record(operation, text, self.line(), steps, before, self.specs))

        with self.context(operation):
            yield apply

    @contextmanager
    def context(self, operation: str) -> Iterator[None]:
        try:
            yield
        except MigrationError as error:
            if error.where is None and self._script:
                line = self.line()
                place = f"{self._script}, line {line}" if line else self._script
                error.where = f"{place}: {operation}"
            raise

    def line(self) -> int | None:
        frame = sys._getframe(1)
        while frame is not None:
            if self._path and frame.f_code.co_filename == self._path:
                return frame.f_lineno
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def apply(self, steps: Sequence[Step]) -> None:
        """Apply steps all at once; MigrationError CKM522 where two give one name."""
        if isinstance(steps, Renames):
            self.entries = self._renamed(steps)
        else:
            self._apply_each(steps)
        self._ties = moved_ties(self._ties, steps)

    def _renamed(self, steps: Renames) -> dict[str, Expr]:
        moved = dict(zip(steps.old, steps.new, strict=True))
        entries = {moved.get(name, name): expr for name, expr in self.entries.items()}
        if len(moved) < len(steps) or len(entries) < len(self.entries):
            raise _overlap(steps, self.entries)
        return entries

    def _apply_each(self, steps: Sequence[Step]) -> None:
        gone, new = self._require_disjoint(steps)
        outputs: list[Expr] = []
        place: dict[str, Sequence[str]] = {}
        for sources, targets, kernel in steps:
            if len(sources) == 1:
                inputs: tuple[Expr, ...] = (self.entries[sources[0]],)
                place[sources[0]] = targets
            else:
                inputs = tuple([self.entries[name] for name in sources])
                place.update(_placed(sources, targets))
            made = kernel.apply(inputs)
            if len(made) != len(targets):
                raise AssertionError(f"{kernel} made {len(made)} of {len(targets)} tensors")
            outputs += made
            self.checks += kernel.checks(inputs)
        named = dict(zip(new, outputs, strict=True))
        self.entries = _rebuilt(self.entries, gone, place, named)

    def _require_disjoint(self, steps: Sequence[Step]) -> tuple[set[str], list[str]]:
        """The names that the steps take, and those that they give in order."""
        sources = [name for step in steps for name in step.sources]
        targets = [name for step in steps for name in step.targets]
        gone, made = set(sources), set(targets)
        twice = len(gone) < len(sources) or len(made) < len(targets)
        if twice or not self.entries.keys().isdisjoint(made - gone):
            raise _overlap(steps, self.entries)
        return gone, targets

    def undo(self, record: Record, steps: Sequence[Step]) -> None:
        """Apply the inverse of a record."""
        for step in steps:
            for name in step.sources:
                self.require(name)
        before = self.specs
        self.apply(steps)
        after = self.specs
        edit = record.edit.inverse() if record.edit else None
        if edit is not None:
            self.meta, edit = self.meta.apply(edit)
        text = f"undo {record.operation}"
        self.records.append(Record(text, record.arguments, record.line, steps, before, after, edit))

    def edit_meta(self, edit: MetaEdit, *args: object, **kwargs: object) -> None:
        """Apply an edit of metadata and record it with the old value."""
        with self.context(f"meta.{edit.kind}"):
            self.meta, done = self.meta.apply(edit)
            text = call_text(args, kwargs)
            self.records.append(Record(f"meta.{edit.kind}", text, self.line(), edit=done))

    def has(self, name: object) -> bool:
        """Whether there is such an entry; a name that is not there is noted with its first line."""
        if name in self.entries:
            return True
        if isinstance(name, str):
            self.absent.setdefault(name, self.line())
        return False

    def take(self, name: str) -> Take:
        """Note that an entry was taken; the mark travels with its tensor."""
        mark = Take(name, self.line())
        self.taken.append(mark)
        return mark

    def use(self, marks: frozenset[object]) -> None:
        """Note that tensors with these marks became part of an entry."""
        self.taken = [mark for mark in self.taken if mark not in marks]

    def finish(self) -> None:
        """Check that everything that was taken is part of some entry; end of a script."""
        for mark in self.taken:
            error = refuse(
                "CKM529",
                f"'{mark.name}' was taken and is used nowhere",
                why="Every entry of a checkpoint is used, or dropped by name.",
                fix=f"Assign an expression that uses it, or drop({mark.name!r}, reason=…).",
            )
            place = f"{self._script}, line {mark.line}" if mark.line else self._script
            error.where = f"{place}: take" if place else None
            raise error


def _overlap(steps: Sequence[Step], entries: Mapping[str, Expr]) -> MigrationError:
    """Names the first clash of steps that are known to have one."""
    taken: set[str] = set()
    for name in (name for step in steps for name in step.sources):
        if name in taken:
            return refuse(
                "CKM522",
                f"'{name}' is used twice in one call",
                why="Two groups of the same operation take it.",
                fix="Make the pattern narrower, or copy the entry first.",
            )
        taken.add(name)
    holders = {name: f"the existing '{name}'" for name in entries if name not in taken}
    for step in steps:
        label = f"'{step.sources[0]}'" if step.sources else "a new entry"
        for name in step.targets:
            if name in holders:
                return refuse(
                    "CKM522",
                    f"two entries would be called '{name}': {holders[name]} and {label}",
                    why="A name holds one tensor; ckmigrate never lets the last one win.",
                    fix="Rename or drop one of them first.",
                )
            holders[name] = label
    raise AssertionError("the steps do not clash")


def _placed(sources: tuple[str, ...], targets: tuple[str, ...]) -> dict[str, list[str]]:
    """By source, the targets that stand where it stood: its own name there, others at the first."""
    place: dict[str, list[str]] = {}
    for target in targets if sources else ():
        place.setdefault(target if target in sources else sources[0], []).append(target)
    return place


def _rebuilt(
    entries: Mapping[str, Expr],
    gone: set[str],
    place: Mapping[str, Sequence[str]],
    made: Mapping[str, Expr],
) -> dict[str, Expr]:
    """The entries in order: a kept name stays, a new one stands where its first source stood."""
    result: dict[str, Expr] = {}
    for name, expr in entries.items():
        if name not in gone:
            result[name] = expr
        else:
            for target in place.get(name, ()):
                result[target] = made[target]
    result.update(made)  # those without a source come last
    return result
