"""The symbolic checkpoint: what `upgrade(ck)` talks to.

It knows names, shapes, dtypes and metadata, never values. Each method resolves its arguments into
steps, which the recorder applies and records: plan, inverse and digest are read off the records.
A script uses a few of the operations; only those are imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ckmigrate import operations as ops
from ckmigrate.expr import Expr, Moments
from ckmigrate.meta import Meta, MetaEdit
from ckmigrate.params import Params
from ckmigrate.recorder import Recorder
from ckmigrate.spec import Schema
from ckmigrate.step import Schemas, Step, refuse
from ckmigrate.ties import Ties

if TYPE_CHECKING:
    from ckmigrate.init import Initialiser
    from ckmigrate.names import Match
    from ckmigrate.operations.compute import Function, Specs
    from ckmigrate.operations.rearrange import ShapeLike
    from ckmigrate.operations.resize import Anchor
    from ckmigrate.scalar import Number
    from ckmigrate.symbolic import SymbolicTensor

__all__ = ["Checkpoint"]


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
        self._params = dict(params or {})
        self._revision = revision
        self._recorder = Recorder(entries, ties, meta or Meta.unknown(), script=script, path=path)
        self._operation = self._recorder.operation

    # -- reading --------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in the order of the checkpoint."""
        return tuple(self._recorder.entries)

    @property
    def entries(self) -> Mapping[str, Expr]:
        return self._recorder.entries

    @property
    def schema(self) -> Schema:
        return Schema((name, expr.spec) for name, expr in self._recorder.entries.items())

    @property
    def ties(self) -> Ties:
        """Groups of names that share one tensor."""
        return self._recorder.ties

    @property
    def meta(self) -> RecordedMeta:
        """The entries of the checkpoint that are not tensors, by dotted path."""
        return RecordedMeta(self._recorder)

    @property
    def params(self) -> Mapping[str, object]:
        """Parameters of the configuration and of --param, by name."""
        return Params(self._params)

    def __contains__(self, name: object) -> bool:
        return self._recorder.has(name)

    def __len__(self) -> int:
        return len(self._recorder.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> SymbolicTensor:
        from ckmigrate.symbolic import SymbolicTensor

        with self._recorder.context("ck[…]"):
            return SymbolicTensor(self._recorder.require(name), name)

    def match(self, pattern: str | re.Pattern[str]) -> tuple[Match, ...]:
        """Every entry that the pattern matches, with its captures; may be empty."""
        from ckmigrate.operations.matching import select

        with self._recorder.context("match"):
            return select(pattern, self._specs, optional=True)

    # -- operations -----------------------------------------------------------------------

    def rename(self, old: str | re.Pattern[str], new: str, *, optional: bool = False) -> None:
        """Rename every match, all at once: swaps and shifts are safe."""
        with self._operation("rename", old, new, optional=optional) as apply:
            apply(ops.rename.rename(self._specs, old, new, optional=optional))

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
                ops.split.split(
                    self._specs, source, targets, dim=dim, sizes=sizes, optional=optional
                )
            )

    def concat(
        self, sources: str | Sequence[str], target: str, *, dim: int = 0, optional: bool = False
    ) -> None:
        """Join tensors along dim, in the order of the alternatives or of the list."""
        with self._operation("concat", sources, target, dim=dim, optional=optional) as apply:
            apply(ops.split.concat(self._specs, sources, target, dim=dim, optional=optional))

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
                ops.stack.stack(
                    self._specs, sources, target, dim=dim, count=count, optional=optional
                )
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
                ops.stack.unstack(
                    self._specs, source, targets, dim=dim, count=count, optional=optional
                )
            )

    def reshape(self, pattern: str, shape: ShapeLike, *, optional: bool = False) -> None:
        """Same elements, new shape; the shape may be a function of the tensor."""
        with self._operation("reshape", pattern, shape, optional=optional) as apply:
            apply(ops.rearrange.reshape(self._specs, pattern, shape, optional=optional))

    def squeeze(self, pattern: str, dim: int, *, optional: bool = False) -> None:
        """Remove a dimension of size 1."""
        with self._operation("squeeze", pattern, dim, optional=optional) as apply:
            apply(ops.rearrange.squeeze(self._specs, pattern, dim, optional=optional))

    def unsqueeze(self, pattern: str, dim: int, *, optional: bool = False) -> None:
        """Add a dimension of size 1 before dim."""
        with self._operation("unsqueeze", pattern, dim, optional=optional) as apply:
            apply(ops.rearrange.unsqueeze(self._specs, pattern, dim, optional=optional))

    def flatten(
        self, pattern: str, start: int = 0, end: int = -1, *, optional: bool = False
    ) -> None:
        """Merge the dimensions start … end into one."""
        with self._operation("flatten", pattern, start, end, optional=optional) as apply:
            apply(ops.rearrange.flatten(self._specs, pattern, start, end, optional=optional))

    def permute(self, pattern: str, dims: Sequence[int], *, optional: bool = False) -> None:
        """Put the dimensions in another order."""
        with self._operation("permute", pattern, dims, optional=optional) as apply:
            apply(ops.rearrange.permute(self._specs, pattern, dims, optional=optional))

    def transpose(self, pattern: str, dim0: int, dim1: int, *, optional: bool = False) -> None:
        """Exchange two dimensions."""
        with self._operation("transpose", pattern, dim0, dim1, optional=optional) as apply:
            apply(ops.rearrange.transpose(self._specs, pattern, dim0, dim1, optional=optional))

    def rearrange(
        self, pattern: str, equation: str, *, optional: bool = False, **sizes: int
    ) -> None:
        """Reorder by an einops equation, such as "(h two d) c -> (h d two) c" with h=8, two=2."""
        with self._operation("rearrange", pattern, equation, optional=optional, **sizes) as apply:
            apply(ops.rearrange.rearrange(self._specs, pattern, equation, sizes, optional=optional))

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
                ops.resize.slice_(
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
                ops.resize.resize(
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
        key: str | None = None,
    ) -> None:
        """Add an entry with a shape, or one for every match of `like`; zeros unless value says.

        Random values depend on the entry's name and on `key`, which is this script's revision
        unless it is given; a squashed script gives those of the scripts that it replaces.
        """
        from ckmigrate.init import zeros

        value = zeros() if value is None else value
        with self._operation(
            "init",
            name,
            shape=shape,
            like=like,
            value=value,
            dtype=dtype,
            if_missing=if_missing,
            key=key,
        ) as apply:
            apply(
                ops.init.init(
                    self._specs,
                    name,
                    shape=shape,
                    like=like,
                    value=value,
                    dtype=dtype,
                    if_missing=if_missing,
                    key=self._revision if key is None else key,
                )
            )

    def drop(
        self, pattern: str, *, reason: str, expect: object = None, optional: bool = False
    ) -> None:
        """Remove every match; `expect` is checked on the bytes and makes the drop reversible."""
        with self._operation(
            "drop", pattern, reason=reason, expect=expect, optional=optional
        ) as apply:
            apply(
                ops.init.drop(self._specs, pattern, reason=reason, expect=expect, optional=optional)
            )

    def copy(self, source: str, target: str, *, optional: bool = False) -> None:
        """The same values under a second name, independent from then on."""
        with self._operation("copy", source, target, optional=optional) as apply:
            apply(ops.copy.copy(self._specs, source, target, optional=optional))

    def tie(self, source: str, target: str, *, optional: bool = False) -> None:
        """A second name for the same tensor."""
        with self._operation("tie", source, target, optional=optional) as apply:
            apply(ops.copy.tie(self._specs, source, target, self._recorder.ties, optional=optional))

    def untie(self, pattern: str, *, optional: bool = False) -> None:
        """Make tied entries independent copies."""
        with self._operation("untie", pattern, optional=optional) as apply:
            apply(ops.copy.untie(self._specs, pattern, self._recorder.ties, optional=optional))

    def merge_equal(
        self, sources: str | Sequence[str], target: str, *, optional: bool = False
    ) -> None:
        """Several entries, checked to be equal, into one."""
        with self._operation("merge_equal", sources, target, optional=optional) as apply:
            apply(ops.copy.merge_equal(self._specs, sources, target, optional=optional))

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
        rows = ops.gather.whole_numbers(index)
        with self._operation(
            "gather", pattern, rows, dim=dim, fill=fill, optional=optional
        ) as apply:
            apply(
                ops.gather.gather(self._specs, pattern, rows, dim=dim, fill=fill, optional=optional)
            )

    def cast(self, pattern: str, dtype: object, *, optional: bool = False) -> None:
        """Convert to another dtype."""
        with self._operation("cast", pattern, dtype, optional=optional) as apply:
            apply(ops.cast.cast(self._specs, pattern, dtype, optional=optional))

    def compute(
        self,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str],
        function: Function,
        *,
        inverse: Function | None = None,
        specs: Specs | None = None,
        moments: Moments = None,
        optional: bool = False,
    ) -> None:
        """Replace the inputs by what a torch function makes of them.

        The function gets real tensors, at execution only; the outputs' shapes are inferred on the
        meta device unless `specs` declares them as (dtype, shape) pairs.

        `moments` says what becomes of the optimizer's moments of the inputs, where a checkpoint has
        them: "same" (the output keeps those of the one input that has its shape), "reset" (they
        begin anew), or a function of the name of the moment and the inputs' moments, such as
        `lambda name, w, mask: w * mask`. What has none, such as a buffer, it gets as it is.
        """
        with self._operation(
            "compute",
            inputs,
            outputs,
            function,
            inverse=inverse,
            specs=specs,
            moments=moments,
            optional=optional,
        ) as apply:
            apply(
                ops.compute.compute(
                    self._specs,
                    inputs,
                    outputs,
                    function,
                    inverse=inverse,
                    declared=specs,
                    moments=moments,
                    optional=optional,
                )
            )

    def __setitem__(self, name: str, tensor: SymbolicTensor) -> None:
        """Add an entry, or replace one, by an expression over other entries."""
        from ckmigrate.symbolic import SymbolicTensor

        with self._operation("assign", name) as apply:
            if not isinstance(tensor, SymbolicTensor):
                raise refuse(
                    "CKM532",
                    f"ck[{name!r}] was assigned {type(tensor).__name__}",
                    why="An entry is an expression over entries: ck[…], ck.take(…), concat, stack.",
                    fix="Use init() for new values and compute() for computed ones.",
                )
            old = (name,) if name in self._recorder.entries else ()
            apply((Step(old, (name,), ops.assign.Assign(tensor.expr)),))
            self._recorder.use(tensor.taken)

    def take(self, name: str) -> SymbolicTensor:
        """The tensor, and the entry goes; it must be used in an expression that is assigned."""
        from ckmigrate.symbolic import SymbolicTensor

        with self._operation("take", name) as apply:
            taken = self._recorder.require(name)
            apply((Step((name,), (), ops.assign.Taken()),))
            return SymbolicTensor(taken, name, frozenset({self._recorder.take(name)}))

    def todo(self, text: str) -> None:
        """A place that somebody has yet to fill in; refuses to run."""
        with self._recorder.context("todo"):
            raise refuse(
                "CKM528",
                f"the script is not finished: {text}",
                why="A todo() marks what could not be decided when the script was drafted.",
                fix="Replace the todo() by the operation that is meant.",
            )

    # -- for the tracer -------------------------------------------------------------------

    @property
    def recorder(self) -> Recorder:
        """The state behind this checkpoint; scripts have no use for it."""
        return self._recorder

    @property
    def _specs(self) -> Schemas:
        return self._recorder.specs


class RecordedMeta:
    """`ck.meta`: reads, and edits that are recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getitem__(self, path: str) -> object:
        with self._recorder.context("meta"):
            return self._recorder.meta.get(path)

    def get(self, path: str, default: object = None) -> object:
        """The value at a dotted path, or the default."""
        with self._recorder.context("meta"):
            meta = self._recorder.meta
            return meta.get(path) if path in meta else default

    def __contains__(self, path: object) -> bool:
        with self._recorder.context("meta"):
            return path in self._recorder.meta

    def rename(self, old: str, new: str, *, optional: bool = False) -> None:
        """Move a value to another path; where optional, a file without it stays as it is."""
        edit = MetaEdit("rename", old, new=new, optional=optional)
        self._recorder.edit_meta(edit, old, new, optional=optional)

    def set(self, path: str, value: object) -> None:
        """Add or replace a value: a number, text, bool, None, or lists and dicts of them."""
        self._recorder.edit_meta(MetaEdit("set", path, value=value), path, value)

    def drop(self, path: str) -> None:
        """Remove a value."""
        self._recorder.edit_meta(MetaEdit("drop", path), path)
