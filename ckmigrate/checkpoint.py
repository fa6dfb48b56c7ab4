"""The symbolic checkpoint: what `upgrade(ck)` talks to.

It knows names, shapes, dtypes and metadata, never values. Each operation is resolved into steps,
the steps are applied to the expressions all at once, and the record of what was done is kept: plan,
inverse and digest are read off the records.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ckmigrate.errors import MigrationError
from ckmigrate.expr import Expr
from ckmigrate.init import Initialiser, zeros
from ckmigrate.meta import Meta, MetaEdit
from ckmigrate.names import Match, nearest
from ckmigrate.operations import cast, compute, copy, gather, init, rearrange, resize, split, stack
from ckmigrate.operations.assign import Assign, Taken
from ckmigrate.operations.compute import Function, Specs
from ckmigrate.operations.matching import select
from ckmigrate.operations.rearrange import ShapeLike
from ckmigrate.operations.rename import rename
from ckmigrate.operations.resize import Anchor
from ckmigrate.scalar import Number
from ckmigrate.spec import Schema, TensorSpec
from ckmigrate.step import Check, Schemas, Step, refuse
from ckmigrate.symbolic import SymbolicTensor

__all__ = ["Checkpoint", "Record"]

Ties = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One call of an operation: its arguments as text, its line, its steps, and the specs of the
    whole checkpoint before and after. A call on metadata has an edit and no steps."""

    operation: str
    arguments: str
    line: int | None
    steps: tuple[Step, ...] = ()
    before: Schemas = ()  # type: ignore[assignment]
    after: Schemas = ()  # type: ignore[assignment]
    edit: MetaEdit | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Take:
    """One call of `take`; equal only to itself."""

    name: str
    line: int | None


class _Specs(Mapping[str, TensorSpec]):
    """The specs of a mapping of expressions, without building a second mapping."""

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[str, Expr]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> TensorSpec:
        return self._entries[name].spec

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


class Checkpoint:
    """The `ck` of a migration script.

    A pattern that matches nothing, two sources for one name, an incomplete group, sizes that do not
    add up: each raises MigrationError, with the script's line. `optional=True` lets an operation
    find nothing.
    """

    def __init__(
        self,
        entries: Mapping[str, Expr],
        *,
        ties: Ties = (),
        meta: Meta | None = None,
        params: Mapping[str, object] | None = None,
        revision: str = "",
        script: str = "",
        path: str = "",
    ) -> None:
        self._entries = dict(entries)
        self._ties = ties
        self._params = dict(params or {})
        self._revision = revision
        self._script = script
        self._path = path
        self._taken: list[_Take] = []
        self.records: list[Record] = []
        self.checks: list[Check] = []
        self._meta = meta or Meta.unknown()

    # -- reading --------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in the order of the checkpoint."""
        return tuple(self._entries)

    @property
    def entries(self) -> Mapping[str, Expr]:
        return self._entries

    @property
    def schema(self) -> Schema:
        return Schema((name, expr.spec) for name, expr in self._entries.items())

    @property
    def ties(self) -> Ties:
        """Groups of names that share one tensor."""
        return self._ties

    @property
    def meta(self) -> RecordedMeta:
        """The entries of the checkpoint that are not tensors, by dotted path."""
        return RecordedMeta(self)

    @property
    def params(self) -> Mapping[str, object]:
        """Parameters of the configuration and of --param, by name."""
        return _Params(self._params)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> SymbolicTensor:
        with self._context("ck[…]"):
            return SymbolicTensor(self._require(name), name)

    def match(self, pattern: str | re.Pattern[str]) -> tuple[Match, ...]:
        """Every entry that the pattern matches, with its captures; may be empty."""
        with self._context("match"):
            return select(pattern, self._specs, optional=True)

    def _require(self, name: str) -> Expr:
        found = self._entries.get(name)
        if found is None:
            near = nearest(name, self._entries) if isinstance(name, str) else ()
            raise refuse(
                "CKM531",
                f"the checkpoint has no entry {name!r}",
                why=f"Nearest: {', '.join(near)}." if near else "Nothing is named like it.",
                fix=f"Correct the name, or ask first: if {name!r} in ck.",
            )
        return found

    # -- operations -----------------------------------------------------------------------

    def rename(self, old: str | re.Pattern[str], new: str, *, optional: bool = False) -> None:
        """Rename every match, all at once: swaps and shifts are safe."""
        with self._operation("rename", old, new, optional=optional) as apply:
            apply(rename(self._specs, old, new, optional=optional))

    def split(
        self,
        source: str,
        targets: str | Sequence[str],
        *,
        dim: int = 0,
        sizes: Sequence[int] | None = None,
        optional: bool = False,
    ) -> None:
        """Cut a tensor along dim into equal parts, or into the given sizes."""
        with self._operation(
            "split", source, targets, dim=dim, sizes=sizes, optional=optional
        ) as apply:
            apply(
                split.split(self._specs, source, targets, dim=dim, sizes=sizes, optional=optional)
            )

    def concat(
        self, sources: str | Sequence[str], target: str, *, dim: int = 0, optional: bool = False
    ) -> None:
        """Join tensors along dim, in the order of the alternatives or of the list."""
        with self._operation("concat", sources, target, dim=dim, optional=optional) as apply:
            apply(split.concat(self._specs, sources, target, dim=dim, optional=optional))

    def stack(
        self,
        sources: str,
        target: str,
        *,
        dim: int = 0,
        count: int | None = None,
        optional: bool = False,
    ) -> None:
        """Join indexed tensors along a new dimension."""
        with self._operation(
            "stack", sources, target, dim=dim, count=count, optional=optional
        ) as apply:
            apply(
                stack.stack(self._specs, sources, target, dim=dim, count=count, optional=optional)
            )

    def unstack(
        self,
        source: str,
        targets: str,
        *,
        dim: int = 0,
        count: int | None = None,
        optional: bool = False,
    ) -> None:
        """Give every index of a dimension an entry of its own."""
        with self._operation(
            "unstack", source, targets, dim=dim, count=count, optional=optional
        ) as apply:
            apply(
                stack.unstack(self._specs, source, targets, dim=dim, count=count, optional=optional)
            )

    def reshape(self, pattern: str, shape: ShapeLike, *, optional: bool = False) -> None:
        """Same elements, new shape; the shape may be a function of the tensor."""
        with self._operation("reshape", pattern, shape, optional=optional) as apply:
            apply(rearrange.reshape(self._specs, pattern, shape, optional=optional))

    def squeeze(self, pattern: str, dim: int, *, optional: bool = False) -> None:
        """Remove a dimension of size 1."""
        with self._operation("squeeze", pattern, dim, optional=optional) as apply:
            apply(rearrange.squeeze(self._specs, pattern, dim, optional=optional))

    def unsqueeze(self, pattern: str, dim: int, *, optional: bool = False) -> None:
        """Add a dimension of size 1 before dim."""
        with self._operation("unsqueeze", pattern, dim, optional=optional) as apply:
            apply(rearrange.unsqueeze(self._specs, pattern, dim, optional=optional))

    def flatten(
        self, pattern: str, start: int = 0, end: int = -1, *, optional: bool = False
    ) -> None:
        """Merge the dimensions start … end into one."""
        with self._operation("flatten", pattern, start, end, optional=optional) as apply:
            apply(rearrange.flatten(self._specs, pattern, start, end, optional=optional))

    def permute(self, pattern: str, dims: Sequence[int], *, optional: bool = False) -> None:
        """Put the dimensions in another order."""
        with self._operation("permute", pattern, dims, optional=optional) as apply:
            apply(rearrange.permute(self._specs, pattern, dims, optional=optional))

    def transpose(self, pattern: str, dim0: int, dim1: int, *, optional: bool = False) -> None:
        """Exchange two dimensions."""
        with self._operation("transpose", pattern, dim0, dim1, optional=optional) as apply:
            apply(rearrange.transpose(self._specs, pattern, dim0, dim1, optional=optional))

    def rearrange(
        self, pattern: str, equation: str, *, optional: bool = False, **sizes: int
    ) -> None:
        """Reorder by an einops equation, such as "(h two d) c -> (h d two) c" with h=8, two=2."""
        with self._operation("rearrange", pattern, equation, optional=optional, **sizes) as apply:
            apply(rearrange.rearrange(self._specs, pattern, equation, sizes, optional=optional))

    def slice(
        self,
        pattern: str,
        *,
        dim: int,
        start: int = 0,
        stop: int | None = None,
        optional: bool = False,
    ) -> None:
        """Keep start … stop along dim."""
        with self._operation(
            "slice", pattern, dim=dim, start=start, stop=stop, optional=optional
        ) as apply:
            apply(
                resize.slice_(
                    self._specs, pattern, dim=dim, start=start, stop=stop, optional=optional
                )
            )

    def resize(
        self,
        pattern: str,
        shape: ShapeLike,
        *,
        fill: Number = 0,
        anchor: Anchor = "start",
        optional: bool = False,
    ) -> None:
        """Crop or pad to a shape; the old values stay at the anchor, new places hold fill."""
        with self._operation(
            "resize", pattern, shape, fill=fill, anchor=anchor, optional=optional
        ) as apply:
            apply(
                resize.resize(
                    self._specs, pattern, shape, fill=fill, anchor=anchor, optional=optional
                )
            )

    def init(
        self,
        name: str,
        *,
        shape: ShapeLike | None = None,
        like: str | None = None,
        value: Initialiser | None = None,
        dtype: object = None,
        if_missing: bool = False,
    ) -> None:
        """Add an entry with a shape, or one for every match of `like`; zeros unless value says."""
        value = zeros() if value is None else value
        with self._operation(
            "init", name, shape=shape, like=like, value=value, dtype=dtype, if_missing=if_missing
        ) as apply:
            apply(
                init.init(
                    self._specs,
                    name,
                    shape=shape,
                    like=like,
                    value=value,
                    dtype=dtype,
                    if_missing=if_missing,
                    key=self._revision,
                )
            )

    def drop(
        self, pattern: str, *, reason: str, expect: object = None, optional: bool = False
    ) -> None:
        """Remove every match; `expect` is checked on the bytes and makes the drop reversible."""
        with self._operation(
            "drop", pattern, reason=reason, expect=expect, optional=optional
        ) as apply:
            apply(init.drop(self._specs, pattern, reason=reason, expect=expect, optional=optional))

    def copy(self, source: str, target: str, *, optional: bool = False) -> None:
        """The same values under a second name, independent from then on."""
        with self._operation("copy", source, target, optional=optional) as apply:
            apply(copy.copy(self._specs, source, target, optional=optional))

    def tie(self, source: str, target: str, *, optional: bool = False) -> None:
        """A second name for the same tensor."""
        with self._operation("tie", source, target, optional=optional) as apply:
            apply(copy.tie(self._specs, source, target, optional=optional))

    def untie(self, pattern: str, *, optional: bool = False) -> None:
        """Make tied entries independent copies."""
        with self._operation("untie", pattern, optional=optional) as apply:
            apply(copy.untie(self._specs, pattern, self._ties, optional=optional))

    def merge_equal(
        self, sources: str | Sequence[str], target: str, *, optional: bool = False
    ) -> None:
        """Several entries, checked to be equal, into one."""
        with self._operation("merge_equal", sources, target, optional=optional) as apply:
            apply(copy.merge_equal(self._specs, sources, target, optional=optional))

    def gather(
        self,
        pattern: str,
        index: Sequence[int | None],
        *,
        dim: int = 0,
        fill: Number | None = None,
        optional: bool = False,
    ) -> None:
        """Rows along dim by an index map: index[i] is the old row of new row i, None is new."""
        rows = gather.whole_numbers(index)
        with self._operation(
            "gather", pattern, rows, dim=dim, fill=fill, optional=optional
        ) as apply:
            apply(gather.gather(self._specs, pattern, rows, dim=dim, fill=fill, optional=optional))

    def cast(self, pattern: str, dtype: object, *, optional: bool = False) -> None:
        """Convert to another dtype."""
        with self._operation("cast", pattern, dtype, optional=optional) as apply:
            apply(cast.cast(self._specs, pattern, dtype, optional=optional))

    def compute(
        self,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str],
        function: Function,
        *,
        inverse: Function | None = None,
        specs: Specs | None = None,
        optional: bool = False,
    ) -> None:
        """Replace the inputs by what a torch function makes of them.

        The function gets real tensors, at execution only; the outputs' shapes are inferred on the
        meta device unless `specs` declares them as (dtype, shape) pairs.
        """
        with self._operation(
            "compute", inputs, outputs, function, inverse=inverse, specs=specs, optional=optional
        ) as apply:
            apply(
                compute.compute(
                    self._specs,
                    inputs,
                    outputs,
                    function,
                    inverse=inverse,
                    declared=specs,
                    optional=optional,
                )
            )

    def __setitem__(self, name: str, tensor: SymbolicTensor) -> None:
        """Add an entry, or replace one, by an expression over other entries."""
        with self._operation("assign", name) as apply:
            if not isinstance(tensor, SymbolicTensor):
                raise refuse(
                    "CKM532",
                    f"ck[{name!r}] was assigned {type(tensor).__name__}",
                    why="An entry is an expression over entries: ck[…], ck.take(…), concat, stack.",
                    fix="Use init() for new values and compute() for computed ones.",
                )
            old = (name,) if name in self._entries else ()
            apply((Step(old, (name,), Assign(tensor.expr)),))
            self._taken = [mark for mark in self._taken if mark not in tensor.taken]

    def take(self, name: str) -> SymbolicTensor:
        """The tensor, and the entry goes; it must be used in an expression that is assigned."""
        with self._operation("take", name) as apply:
            taken = self._require(name)
            apply((Step((name,), (), Taken()),))
            mark = _Take(name, self._line())
            self._taken.append(mark)
            return SymbolicTensor(taken, name, frozenset({mark}))

    def todo(self, text: str) -> None:
        """A place that somebody has yet to fill in; refuses to run."""
        with self._context("todo"):
            raise refuse(
                "CKM528",
                f"the script is not finished: {text}",
                why="A todo() marks what could not be decided when the script was drafted.",
                fix="Replace the todo() by the operation that is meant.",
            )

    # -- the engine -----------------------------------------------------------------------

    @property
    def _specs(self) -> Schemas:
        return _Specs(self._entries)

    @contextmanager
    def _operation(
        self, operation: str, *args: object, **kwargs: object
    ) -> Iterator[Callable[[tuple[Step, ...]], None]]:
        """Record one call: the block resolves its steps and hands them over."""

        def apply(steps: tuple[Step, ...]) -> None:
            before = self._specs
            self.apply(steps)
            text = call_text(args, kwargs)
            self.records.append(Record(operation, text, self._line(), steps, before, self._specs))

        with self._context(operation):
            yield apply

    @contextmanager
    def _context(self, operation: str) -> Iterator[None]:
        try:
            yield
        except MigrationError as error:
            if error.where is None and self._script:
                line = self._line()
                place = f"{self._script}, line {line}" if line else self._script
                error.where = f"{place}: {operation}"
            raise

    def _line(self) -> int | None:
        frame = sys._getframe(1)
        while frame is not None:
            if self._path and frame.f_code.co_filename == self._path:
                return frame.f_lineno
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def apply(self, steps: Sequence[Step]) -> None:
        """Apply steps all at once; MigrationError CKM522 where two give one name."""
        gone, new = self._require_disjoint(steps)
        outputs: list[Expr] = []
        place: dict[str, Sequence[str]] = {}
        for sources, targets, kernel in steps:
            if len(sources) == 1:
                inputs: tuple[Expr, ...] = (self._entries[sources[0]],)
                place[sources[0]] = targets
            else:
                inputs = tuple([self._entries[name] for name in sources])
                place.update(_placed(sources, targets))
            made = kernel.apply(inputs)
            if len(made) != len(targets):
                raise AssertionError(f"{kernel} made {len(made)} of {len(targets)} tensors")
            outputs += made
            self.checks += kernel.checks(inputs)
        named = dict(zip(new, outputs, strict=True))
        self._entries = _rebuilt(self._entries, gone, place, named)
        self._ties = _moved_ties(self._ties, steps)

    def _require_disjoint(self, steps: Sequence[Step]) -> tuple[set[str], list[str]]:
        """The names that the steps take, and those that they give in order."""
        sources = [name for step in steps for name in step.sources]
        targets = [name for step in steps for name in step.targets]
        gone, made = set(sources), set(targets)
        twice = len(gone) < len(sources) or len(made) < len(targets)
        if twice or not self._entries.keys().isdisjoint(made - gone):
            raise _overlap(steps, self._entries)
        return gone, targets

    def add_record(self, record: Record) -> None:
        self.records.append(replace(record, line=self._line()))

    def undo(self, record: Record, steps: tuple[Step, ...]) -> None:
        """Apply the inverse of a record."""
        for step in steps:
            for name in step.sources:
                self._require(name)
        before = self._specs
        self.apply(steps)
        after = self._specs
        edit = record.edit.inverse() if record.edit else None
        if edit is not None:
            self._meta, edit = self._meta.apply(edit)
        text = f"undo {record.operation}"
        self.records.append(Record(text, record.arguments, record.line, steps, before, after, edit))

    @property
    def current_meta(self) -> Meta:
        return self._meta

    def finish(self) -> None:
        """Check that everything that was taken is part of some entry; end of a script."""
        for mark in self._taken:
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
    entries: dict[str, Expr],
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


def _moved_ties(ties: Ties, steps: Sequence[Step]) -> Ties:
    """Tied groups under their new names; only one-to-one steps keep a tie."""
    joined = [step.targets for step in steps if getattr(step.kernel, "tied", False) is True]
    if not ties and not joined:
        return ()
    moved = {name: _tied_name(step, name) for step in steps for name in step.sources}
    groups = [[new for name in group if (new := moved.get(name, name))] for group in ties]
    for names in joined:
        touching = [group for group in groups if set(group) & set(names)]
        groups = [group for group in groups if group not in touching]
        groups.append(list(dict.fromkeys([n for group in touching for n in group] + [*names])))
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _tied_name(step: Step, name: str) -> str | None:
    """The name under which an entry stays tied to the others of its group; None where it leaves."""
    kernel = step.kernel
    if isinstance(kernel, copy.Retie) and not kernel.tied:
        return None
    if len(step.sources) == len(step.targets) == 1:
        return step.targets[0]
    keeps = isinstance(kernel, (copy.Duplicate, copy.Retie, copy.Merge, init.Drop))
    return name if keeps and name in step.targets else None


def call_text(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Arguments as a script would write them; defaults left out, functions as a word."""
    words = [_text(value) for value in args]
    words += [
        f"{key}={_text(value)}"
        for key, value in kwargs.items()
        if value is not None and value is not False
    ]
    return ", ".join(words)


def _text(value: object) -> str:
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r})"
    if isinstance(value, Initialiser):
        return f"init.{value}"
    if callable(value):
        name = getattr(value, "__name__", "function")
        return "function" if name == "<lambda>" else name
    return repr(value)


class _Params(Mapping[str, object]):
    """Parameters; a missing one says how to give it."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> object:
        if name not in self._values:
            known = ", ".join(sorted(self._values)) or "none"
            raise refuse(
                "CKM534",
                f"parameter {name!r} is not given",
                why=f"The script asks for it; known parameters: {known}.",
                fix=f"Add it to [tool.ckmigrate.params], or give --param {name}=VALUE.",
            )
        return self._values[name]

    def get(self, name: str, default: object = None) -> object:
        """The parameter, or the default where it is not given."""
        return self._values.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class RecordedMeta:
    """`ck.meta`: reads, and edits that are recorded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._ck = checkpoint

    def __getitem__(self, path: str) -> object:
        with self._ck._context("meta"):
            return self._ck._meta.get(path)

    def get(self, path: str, default: object = None) -> object:
        """The value at a dotted path, or the default."""
        with self._ck._context("meta"):
            return self._ck._meta.get(path) if path in self._ck._meta else default

    def __contains__(self, path: object) -> bool:
        with self._ck._context("meta"):
            return path in self._ck._meta

    def rename(self, old: str, new: str, *, optional: bool = False) -> None:
        """Move a value to another path; where optional, a file without it stays as it is."""
        self._edit(MetaEdit("rename", old, new=new, optional=optional), old, new, optional=optional)

    def set(self, path: str, value: object) -> None:
        """Add or replace a value: a number, text, bool, None, or lists and dicts of them."""
        self._edit(MetaEdit("set", path, value=value), path, value)

    def drop(self, path: str) -> None:
        """Remove a value."""
        self._edit(MetaEdit("drop", path), path)

    def _edit(self, edit: MetaEdit, *args: object, **kwargs: object) -> None:
        with self._ck._context(f"meta.{edit.kind}"):
            self._ck._meta, done = self._ck._meta.apply(edit)
            record = Record(f"meta.{edit.kind}", call_text(args, kwargs), None, edit=done)
            self._ck.add_record(record)
