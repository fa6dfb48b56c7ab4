"""What a chain of scripts does, operation by operation, folded over layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckmigrate.compile import TracedScript
from ckmigrate.fold import fold, fold_names, skeleton
from ckmigrate.recorder import Record
from ckmigrate.report.schema import shape_text
from ckmigrate.spec import TensorSpec
from ckmigrate.step import Step

__all__ = ["Change", "changes"]

_MOST_GROUPS = 4
_MOST_STEPS = 5_000
"""Of one call: folding them takes longer than planning, and chains are long."""
_RENAMING = re.compile(r"'([^']*)', '([^']*)'")


@dataclass(frozen=True, slots=True)
class Change:
    """Steps of one operation that are alike.

    before, after  folded names with their shapes, such as "h.{0…11}.qkv.weight [96,32]"
    detail         a few words of the operation: "dim 0 into 3 × 32"
    count          how many steps
    """

    operation: str
    before: str
    after: str
    detail: str
    count: int


def changes(script: TracedScript, *, full: bool) -> tuple[Change, ...]:
    """Everything that a script did. A call that did many different things, or thousands of them,
    is one line with its arguments, unless `full`."""
    return tuple(change for record in script.records for change in _of_record(record, full=full))


def _of_record(record: Record, *, full: bool) -> Sequence[Change]:
    if record.edit is not None or not record.steps:
        return [Change(record.operation, record.arguments, "", "", len(record.steps))]
    is_short = full or len(record.steps) <= _MOST_STEPS
    groups = _grouped(record, most=None if full else _MOST_GROUPS) if is_short else None
    if groups is None:
        before, after = _renaming(record) or (record.arguments, "")
        return [Change(record.operation, before, after, "", len(record.steps))]
    return [_change(record, steps) for steps in groups]


def _renaming(record: Record) -> tuple[str, str] | None:
    """The two patterns of a rename; None where its arguments are others."""
    found = _RENAMING.fullmatch(record.arguments) if record.operation == "rename" else None
    return None if found is None else (found[1], found[2])


def _grouped(record: Record, *, most: int | None) -> list[list[Step]] | None:
    """Steps that differ in indices only; None as soon as there are more than `most` kinds."""
    groups: dict[object, list[Step]] = {}
    for step in record.steps:
        groups.setdefault(_likeness(record, step), []).append(step)
        if most is not None and len(groups) > most:
            return None
    return list(groups.values())


def _likeness(record: Record, step: Step) -> object:
    sources = tuple((skeleton(name), record.before.get(name)) for name in step.sources)
    targets = tuple((skeleton(name), record.after.get(name)) for name in step.targets)
    # Many numbered parts of one tensor are one kind of part.
    return frozenset(sources), frozenset(targets), step.kernel.describe()


def _change(record: Record, steps: Sequence[Step]) -> Change:
    before = {name: record.before[name] for step in steps for name in step.sources}
    after = {name: record.after[name] for step in steps for name in step.targets}
    is_typed = _dtypes(before) != _dtypes(after)
    is_rename = bool(before) and list(before.values()) == list(after.values())
    left = _names(before, shapes=not is_rename, dtypes=is_typed)
    right = _names(after, shapes=not is_rename, dtypes=is_typed)
    if before.keys() == after.keys():
        right = _specs(after.values(), dtypes=is_typed)
    return Change(record.operation, left, right, steps[0].kernel.describe(), len(steps))


def _dtypes(specs: dict[str, TensorSpec]) -> set[object]:
    return {spec.dtype for spec in specs.values()}


def _names(specs: dict[str, TensorSpec], *, shapes: bool, dtypes: bool) -> str:
    """Folded names, alternatives joined: `attn.{q,k,v}.weight [32,32]`."""
    by_spec: dict[str, list[str]] = {}
    for line in fold(specs):
        text = _spec(line.value, dtypes=dtypes) if shapes else ""
        by_spec.setdefault(text, []).append(line.pattern)
    return " + ".join(f"{_joined(names)} {text}".rstrip() for text, names in by_spec.items())


def _specs(specs: Iterable[TensorSpec], *, dtypes: bool) -> str:
    return " + ".join(dict.fromkeys(_spec(spec, dtypes=dtypes) for spec in specs))


def _spec(spec: TensorSpec, *, dtypes: bool) -> str:
    return f"{shape_text(spec)} {spec.dtype}" if dtypes else shape_text(spec)


def _joined(names: Sequence[str]) -> str:
    """Names that differ in one segment as one: `a.{q,k}.w`; others separated by commas."""
    parts = [name.split(".") for name in names]
    if len(names) < 2 or len({len(part) for part in parts}) > 1:
        return ", ".join(names)
    columns = list(zip(*parts, strict=True))
    varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    if len(varying) != 1 or any("{" in segment for segment in columns[varying[0]]):
        return ", ".join(names)
    joined = list(parts[0])
    joined[varying[0]] = "{" + ",".join(columns[varying[0]]) + "}"
    return ".".join(joined)


def folded(names: Iterable[str]) -> str:
    """Names alone, folded and joined."""
    return _joined(fold_names(names))
