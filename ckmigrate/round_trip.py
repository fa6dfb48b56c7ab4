"""Up, down and up again: whether undoing a script gives back what was there.

The whole is one expression per entry. Where up and down together are the entry itself the case is
proved, whatever its size; only the rest is worked out on synthetic values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from unittest import SkipTest

from ckmigrate.compile import State, TracedScript, start, trace, trace_back
from ckmigrate.errors import CkmigrateError, VerificationError
from ckmigrate.expr import Expr, is_structural, sources
from ckmigrate.meta import ABSENT, UNKNOWN, is_unknown_metadata
from ckmigrate.recorder import Record
from ckmigrate.revisions.script import Script
from ckmigrate.spec import DType, TensorSpec
from ckmigrate.step import Check
from ckmigrate.strict import compare_ties, describe_ties
from ckmigrate.synthetic import NEW, Values, element_numbers, synthetic_values
from ckmigrate.trial import MAX_BYTES, Subject, differences

__all__ = ["try_round_trip"]

_NEAR = {DType.F64: 1e-9, DType.F32: 1e-4, DType.C64: 1e-4, DType.C128: 1e-9}
"""How far computed values may be off, relatively; narrower floats a hundredth, the rest nothing."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """An entry as it was, or as the first upgrade made it, and as it is at the end."""

    name: str
    wanted: Expr
    found: Expr


def try_round_trip(
    tried: Subject, model: str, revision: str, *, max_bytes: int = MAX_BYTES
) -> None:
    """Upgrade by one script, undo it, and upgrade again.

    SkipTest, with every reason, for a script that is irreversible. VerificationError CKM635 where
    the checkpoint does not come back, or where the second upgrade is not the first; MigrationError
    of a downgrade that fails. Entries that functions computed may differ by rounding.
    """
    before = _before(tried, model, revision)
    script = tried.history.script(revision)
    params = tried.project.params
    try:
        up = trace((script,), before, params).scripts[0]
        down = trace_back((script,), up.after, params, {revision: _remembering(up)})
        again = trace((script,), down.end, params)
    except CkmigrateError as error:
        if error.code == "CKM550":
            raise SkipTest("irreversible: " + "; ".join(error.details)) from None
        if is_unknown_metadata(error):
            raise SkipTest(f"{error.where}: it reads metadata, which a snapshot lacks") from None
        error.details += (f"up and down on the schema of model '{model}'",)
        raise
    _require_same(script, before, down.end, "after up and down", up, max_bytes)
    _require_same(script, up.after, again.end, "after up, down and up", up, max_bytes)
    _require_claims(script, (*down.checks, *again.checks), up, max_bytes)


def _before(tried: Subject, model: str, revision: str) -> State:
    """The state that the script starts from, every entry being a tensor of its own."""
    replay = tried.replay(model)
    traced = replay.traced(revision)
    if traced is None:
        failed = replay.failures.get(revision)
        why = failed.what if failed else "a script before it fails"
        raise SkipTest(f"cannot be replayed on the base snapshot of model '{model}': {why}")
    return start(traced.before.schema, ties=traced.before.ties)


def _remembering(up: TracedScript) -> TracedScript:
    """The records with old metadata, which a tag remembers and a schema does not."""
    return replace(up, records=tuple(map(_with_old, up.records)))


def _with_old(record: Record) -> Record:
    edit = record.edit
    if edit is None or edit.old is not UNKNOWN:
        return record
    return replace(record, edit=replace(edit, old=ABSENT))


def _require_same(
    script: Script, wanted: State, found: State, when: str, up: TracedScript, max_bytes: int
) -> None:
    lines = differences(found.schema, wanted.schema, "result", "original")
    if not lines:
        lines = describe_ties(compare_ties(found.ties, wanted.ties, wanted.schema))
        pairs = [_Pair(n, expr, found.entries[n]) for n, expr in wanted.entries.items()]
        lines += tuple(_unequal(pairs, up, max_bytes))
    if lines:
        raise VerificationError(
            "CKM635",
            f"{script.path.name} does not give the checkpoint back {when}",
            where=str(script.path),
            details=lines[:20] + ((f"… {len(lines) - 20} more",) if len(lines) > 20 else ()),
            why="downgrade(ck) of the script is not the inverse of its upgrade(ck)."
            if script.has_downgrade
            else "The inverse that was derived from its operations is not one.",
            fix='Correct downgrade(ck), or declare irreversible = "why" in its place.'
            if script.has_downgrade
            else "Please report this with the script.",
        )


def _require_claims(
    script: Script, checks: Sequence[Check], up: TracedScript, max_bytes: int
) -> None:
    """What downgrade and the second upgrade claim of values holds after an upgrade."""
    pairs = [_Pair(check.claim, check.left, check.right) for check in checks]
    lines = tuple(_unequal(pairs, up, max_bytes))
    if lines:
        raise VerificationError(
            "CKM635",
            f"{script.path.name} claims of values on the way back what does not hold",
            where=str(script.path),
            details=lines,
            why="The checkpoint that upgrade(ck) made would be refused by its downgrade.",
            fix='Correct downgrade(ck), or declare irreversible = "why" in its place.',
        )


def _unequal(pairs: list[_Pair], up: TracedScript, max_bytes: int) -> Iterator[str]:
    """A line for each entry that is not what it was."""
    open_pairs = [pair for pair in pairs if pair.wanted != pair.found]
    if not open_pairs:
        return
    values = _values(open_pairs, up, max_bytes)
    evaluator = values.evaluator(expr for pair in open_pairs for expr in (pair.wanted, pair.found))
    for pair in open_pairs:
        if is_structural(pair.wanted) and is_structural(pair.found):
            if values.unequal(pair.wanted, pair.found).any():
                yield _told(pair, values)
            continue
        wanted, found = (values.data(expr, evaluator) for expr in (pair.wanted, pair.found))
        if wanted != found and not _is_near(wanted, found, pair.wanted.spec):
            yield f"'{pair.name}': its values differ"


def _values(pairs: list[_Pair], up: TracedScript, max_bytes: int) -> Values:
    """Synthetic values of the entries in question, and of those that claims tie to them."""
    asked = [expr for pair in pairs for expr in (pair.wanted, pair.found)]
    asked += [side for check in up.checks for side in (check.left, check.right)]
    names = {name for expr in asked for name in sources(expr)}
    schema = {name: spec for name, spec in up.before.schema.items() if name in names}
    nbytes = sum(spec.nbytes for spec in schema.values())
    if nbytes > max_bytes:
        raise SkipTest(
            f"synthetic values of {len(schema)} entries would have {nbytes >> 20} MiB, more than "
            f"the limit of {max_bytes >> 20}; raise ckmigrate_max_megabytes"
        )
    values = synthetic_values(schema, checks=up.checks)
    if values.unmet:
        raise SkipTest(f"no synthetic values meet the claim: {values.unmet[0]}")
    return values


def _is_near(wanted: bytes, found: bytes, spec: TensorSpec) -> bool:
    import torch

    from ckmigrate.loaded_tensors import tensor_from_bytes

    if spec.dtype.kind not in ("float", "complex") or spec.dtype.bits < 16:
        return False
    rtol = _NEAR.get(spec.dtype, 1e-2)
    one, other = (tensor_from_bytes(bytearray(data), spec) for data in (wanted, found))
    near: bool = torch.allclose(other, one, rtol=rtol, atol=rtol, equal_nan=True)
    return near


def _told(pair: _Pair, values: Values) -> str:
    """Whose value stands where another belongs."""
    constants: list[bytes] = []
    wanted, found = (
        element_numbers(expr, values.numbering, constants).reshape(-1)
        for expr in (pair.wanted, pair.found)
    )
    wrong = values.unequal(pair.wanted, pair.found).nonzero()[0]
    told = [_whose(int(side[wrong[0]]), values) for side in (wanted, found)]
    place = _place(int(wrong[0]), pair.wanted.spec.shape)
    return (
        f"'{pair.name}': {len(wrong)} of {len(wanted)} values differ; at {place} stands "
        f"{told[1]} instead of {told[0]}"
    )


def _whose(number: int, values: Values) -> str:
    if number < 0:
        return "a new value" if number == NEW else "a constant"
    name, place = values.numbering.name_of(number)
    return f"value {place} of '{name}'"


def _place(index: int, shape: tuple[int, ...]) -> str:
    places = []
    for size in reversed(shape):
        places.append(index % size)
        index //= size
    return f"[{','.join(map(str, reversed(places)))}]"
