"""Where a result differs from the model that must load it.

Stricter than torch, which adapts `(1,)` to `()` and casts any dtype to any other in silence. Of
dtypes, only the four usual float types may stand for each other: a checkpoint in half precision is
a checkpoint of the same model. Such widths are notes; everything else is a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckmigrate.fold import Folded, fold, fold_names
from ckmigrate.spec import DType, TensorSpec

__all__ = [
    "Difference",
    "TieDifference",
    "compare",
    "compare_ties",
    "describe",
    "describe_notes",
    "describe_ties",
    "notes",
]

Kind = Literal["missing", "unexpected", "shape", "dtype"]
Ties = Sequence[Sequence[str]]

_KINDS: tuple[Kind, ...] = ("missing", "unexpected", "shape", "dtype")
_WIDTHS = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})
_MOST_COMPARED = 200
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry that does not fit.

    found   what the result has; None for a missing entry
    wanted  what the model has; None for an unexpected entry
    """

    kind: Kind
    name: str
    found: TensorSpec | None
    wanted: TensorSpec | None


@dataclass(frozen=True, slots=True)
class TieDifference:
    """Names that one side ties and the other does not.

    "untied": one tensor of the model, stored as several; loads well only if their values are equal.
    "tied": one tensor of the result, several of the model; they would be trained as one if loaded
    with `assign=True`.
    """

    kind: Literal["untied", "tied"]
    names: tuple[str, ...]


def compare(
    found: Mapping[str, TensorSpec],
    target: Mapping[str, TensorSpec],
    *,
    exempt: Iterable[str] = (),
    ties: Ties = (),
) -> tuple[Difference, ...]:
    """Every difference of names, shapes and dtypes, in the order of the target, then of `found`.

    exempt  patterns of whole names that are not compared at all
    ties    groups of names of which one is enough, for files that keep tied entries once
    """
    pairs = ((name, found.get(name), wanted) for name, wanted in target.items())
    differences = [d for pair in pairs for d in _differences(*pair)]
    extra = ((name, spec) for name, spec in found.items() if name not in target)
    differences += [Difference("unexpected", name, spec, None) for name, spec in extra]
    spared = {n for group in ties for n in group if any(other in found for other in group)}
    kept = [d for d in differences if d.kind != "missing" or d.name not in spared]
    free = _matching(exempt, [d.name for d in kept])
    return tuple(d for d in kept if d.name not in free)


def notes(
    found: Mapping[str, TensorSpec], target: Mapping[str, TensorSpec], *, exempt: Iterable[str] = ()
) -> tuple[Difference, ...]:
    """The entries whose float width is not that of the model, which `compare` lets pass."""
    both = ((name, found[name], wanted) for name, wanted in target.items() if name in found)
    other = [
        Difference("dtype", name, has, wanted)
        for name, has, wanted in both
        if has.dtype is not wanted.dtype and _fits(has.dtype, wanted.dtype)
    ]
    free = _matching(exempt, [d.name for d in other])
    return tuple(d for d in other if d.name not in free)


def compare_ties(found: Ties, target: Ties, names: Iterable[str]) -> tuple[TieDifference, ...]:
    """Where the groups of tied names differ, among `names`, those that both sides have."""
    known = frozenset(names)
    untied = [_representatives(group, found, known) for group in target]
    tied = [_representatives(group, target, known) for group in found]
    return (
        *(TieDifference("untied", group) for group in untied if len(group) > 1),
        *(TieDifference("tied", group) for group in tied if len(group) > 1),
    )


def describe(
    differences: Iterable[Difference], *, found: str = "result", wanted: str = "model"
) -> tuple[str, ...]:
    """One line per folded group of differences, missing entries first.

    found and wanted name the two sides, as in "the {wanted} has it".
    """
    listed = tuple(differences)
    lines = {kind: _folded(d for d in listed if d.kind == kind) for kind in _KINDS}
    renamed = _renamed(lines["missing"], lines["unexpected"])
    return tuple(
        f"{kind:<11} {_told(kind, line, found, wanted)}" + _guess(renamed.get(line.pattern))
        for kind in _KINDS
        for line in lines[kind]
    )


def describe_notes(differences: Iterable[Difference]) -> tuple[str, ...]:
    """One line per folded group of what `notes` gives."""
    lines = _folded(differences)
    return tuple(f"{'width':<11} {_told('dtype', line)}" for line in lines)


def describe_ties(differences: Iterable[TieDifference]) -> tuple[str, ...]:
    """One line per group."""
    texts = {
        "untied": "one tensor in the model, stored apart in the result",
        "tied": "stored as one tensor in the result, apart in the model",
    }
    return tuple(
        f"{d.kind:<11} {' = '.join(fold_names(d.names))} — {texts[d.kind]}" for d in differences
    )


_Specs = tuple[TensorSpec | None, TensorSpec | None]


def _differences(name: str, has: TensorSpec | None, wanted: TensorSpec) -> Iterator[Difference]:
    if has is None:
        yield Difference("missing", name, None, wanted)
        return
    if has.shape != wanted.shape:
        yield Difference("shape", name, has, wanted)
    if not _fits(has.dtype, wanted.dtype):
        yield Difference("dtype", name, has, wanted)


def _fits(has: DType, wanted: DType) -> bool:
    return has is wanted or (has in _WIDTHS and wanted in _WIDTHS)


def _matching(patterns: Iterable[str], names: Sequence[str]) -> frozenset[str]:
    from ckmigrate.names import select

    return frozenset(match.name for pattern in patterns for match in select(pattern, names))


def _representatives(group: Sequence[str], others: Ties, known: frozenset[str]) -> tuple[str, ...]:
    """One name for each part into which the groups of the other side divide this one."""
    place = {name: index for index, other in enumerate(others) for name in other}
    parts: dict[object, str] = {}
    for name in group:
        if name in known:
            parts.setdefault(place.get(name, name), name)
    return tuple(parts.values())


def _folded(differences: Iterable[Difference]) -> tuple[Folded[_Specs], ...]:
    return fold({d.name: (d.found, d.wanted) for d in differences})


def _told(kind: Kind, line: Folded[_Specs], ours: str = "result", theirs: str = "model") -> str:
    found, wanted = line.value
    if found is None or wanted is None:
        has, lacks = (theirs, ours) if found is None else (ours, theirs)
        return f"{line.pattern} {_spec(found or wanted)} — the {has} has it, the {lacks} does not"
    one, other = (_shape(s) if kind == "shape" else str(s.dtype) for s in (found, wanted))
    return f"{line.pattern} is {one}, the {theirs} wants {other}"


def _spec(spec: TensorSpec | None) -> str:
    return f"{_shape(spec)} {spec.dtype}" if spec else ""


def _shape(spec: TensorSpec) -> str:
    return f"[{','.join(map(str, spec.shape))}]"


def _guess(pattern: str | None) -> str:
    return f"; perhaps renamed from {pattern}?" if pattern else ""


def _renamed(
    missing: Sequence[Folded[_Specs]], unexpected: Sequence[Folded[_Specs]]
) -> dict[str, str]:
    """Missing pattern → unexpected pattern of the same specs and count; the most alike first."""
    pairs = [
        (_likeness(line.pattern, other.pattern), line.pattern, other.pattern)
        for line in missing[:_MOST_COMPARED]
        for other in unexpected[:_MOST_COMPARED]
        if line.value[1] == other.value[0] and len(line.names) == len(other.names)
    ]
    rivals = [pattern for _, *patterns in pairs for pattern in patterns]
    found: dict[str, str] = {}
    for likeness, line, other in sorted(pairs, key=lambda pair: -pair[0]):
        alone = rivals.count(line) == rivals.count(other) == 1
        if line not in found and other not in found.values() and (alone or likeness >= _ALIKE):
            found[line] = other
    return found


def _likeness(one: str, other: str) -> float:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).ratio()
