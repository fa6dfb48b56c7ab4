"""Tests of migrations, for a project's own test suite.

The pytest plugin runs five of them for every model (`ckmigrate = true` in pytest's configuration);
the functions are for tests that say more:

    from ckmigrate.testing import assert_migrates

    def test_the_bias_is_split():
        old = {"kv.bias": torch.arange(4.0)}
        new = {"k.bias": torch.tensor([0.0, 1.0]), "v.bias": torch.tensor([2.0, 3.0])}
        assert_migrates(old, "0004", new)

`project` is a folder, whose nearest configuration is meant, or a `Project`; None is the working
directory. `model` is one of the named models; None is all of them, of which at least one has to be
tested. A failure is a CkmigrateError that says what, where, why, and what to do. Where there is
nothing to test `unittest.SkipTest` says why, which pytest shows as a skipped test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from unittest import SkipTest

from ckmigrate.errors import VerificationError
from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import Project
from ckmigrate.revisions.targets import resolve
from ckmigrate.round_trip import try_round_trip
from ckmigrate.self_contained import examine, require_self_contained
from ckmigrate.snapshot import Snapshot
from ckmigrate.synthetic import synthetic_values
from ckmigrate.synthetic_state import schema_of, synthetic_state
from ckmigrate.trial import (
    MAX_BYTES,
    Subject,
    differences,
    head_of,
    subject,
    try_chain,
    try_model,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_BYTES",
    "assert_chain_runs",
    "assert_migrates",
    "assert_model_matches_head",
    "assert_scripts_are_self_contained",
    "assert_single_head",
    "assert_up_down_up_is_identity",
    "synthetic_checkpoint",
]

Case = TypeVar("Case")


def synthetic_checkpoint(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    """Tensors for a snapshot (`ckmigrate.snapshot.read_snapshot`), tied names sharing one.

    Every element differs from every other one of its dtype, as far as the dtype has room: 2^30
    values of 32 and 64 bits, 65011 or more of 16 bits. Those of 8 bits repeat after 241 or 251
    elements, 4 bits after 13, and bool is one bit of a hash of the place. Floats are finite and
    begin at 1. SkipTest where torch lacks a dtype (F6).
    """
    return synthetic_state(snapshot, synthetic_values(snapshot.schema, ties=snapshot.ties))


def assert_single_head(*, project: Project | Path | None = None) -> None:
    """The history is valid and ends in one head. HistoryError CKM3xx, CKM316 for several heads."""
    __tracebackhide__ = True
    head_of(subject(project))


def assert_chain_runs(
    model: str | None = None,
    *,
    project: Project | Path | None = None,
    max_bytes: int = MAX_BYTES,
    accept: Sequence[str] = (),
) -> None:
    """A file with synthetic values goes through the whole chain: written, upgraded, read again.

    The result has exactly the tensors of the committed head snapshot where there is one, and every
    value is where the plan says. Values that a script's own expressions lose or repeat are errors,
    but for revisions in `accept`. Checkpoints larger than max_bytes are skipped.

    MigrationError of the script that fails; VerificationError: CKM630 other tensors, CKM631 lost
    values, CKM632 repeated values, CKM633 wrong bytes.
    """
    __tracebackhide__ = True
    tried = subject(project)
    chosen = _models(tried, model)
    _each(lambda name: try_chain(tried, name, max_bytes=max_bytes, accept=accept), chosen)


def assert_model_matches_head(
    model: str | None = None, *, project: Project | Path | None = None
) -> None:
    """Today's model has the tensors that the migrations lead to, and loads them strictly.

    VerificationError CKM634 with every difference, CKM611 or CKM612 of the strict load; UsageError
    CKM21x where the model cannot be built.
    """
    __tracebackhide__ = True
    tried = subject(project)
    _each(lambda name: try_model(tried, name), _models(tried, model))


def assert_up_down_up_is_identity(
    script: str | None = None,
    model: str | None = None,
    *,
    project: Project | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Undoing a script gives back what was there, and upgrading again the same once more.

    script  a revision as the command line takes it (id, number, slug); None: every reversible one

    VerificationError CKM635. Entries that functions compute may be off by rounding.
    """
    __tracebackhide__ = True
    tried = subject(project)
    chosen = [_script_id(tried, script)] if script else [s.id for s in tried.history.order]
    pairs = [(name, revision) for name in _models(tried, model) for revision in chosen]
    _each(lambda pair: try_round_trip(tried, *pair, max_bytes=max_bytes), pairs)


def assert_scripts_are_self_contained(
    script: str | None = None,
    *,
    project: Project | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """The scripts run in a fresh process in which the project's own code cannot be imported.

    HistoryError CKM330 with the modules that a script asked for.
    """
    __tracebackhide__ = True
    tried = subject(project)
    head_of(tried)
    findings = examine(tried, max_bytes=max_bytes)
    scripts = [tried.history.script(_script_id(tried, script))] if script else tried.history.order
    _each(lambda one: require_self_contained(one, findings[one.id]), scripts)


def assert_migrates(
    old: Mapping[str, torch.Tensor],
    to: str,
    new: Mapping[str, torch.Tensor],
    *,
    start: str | None = None,
    project: Project | Path | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """A state dict goes through the real upgrade, in a file, and becomes this other one.

    to     "head", or the script to run: id, number, slug
    start  the revision that `old` is at; None: what the script builds on, and base for "head"
    rtol, atol  as of `torch.allclose`, for floats; without them every bit has to be equal

    VerificationError CKM636 with every difference; whatever the upgrade raises.
    """
    __tracebackhide__ = True
    tried = subject(project)
    found = _migrated(tried, old, to, start)
    lines = differences(schema_of(found), schema_of(new), "result", "expectation")
    if not lines:
        lines = tuple(
            f"'{name}': {_difference(found[name], wanted)}"
            for name, wanted in new.items()
            if not _is_equal(found[name], wanted, rtol, atol)
        )
    if lines:
        raise VerificationError(
            "CKM636",
            f"the state dict does not become the expected one at {to}",
            where=str(tried.history.folder),
            details=lines[:40],
            why="It was written to a file, upgraded, and read again.",
            fix="Correct the script, or the expectation.",
        )


def _script_id(tried: Subject, text: str) -> str:
    """The full id of a script that is named as on the command line."""
    found = resolve(tried.history, text)
    if found is None:
        raise SkipTest(f"'{text}' is the base, which is no script")
    return found


def _models(tried: Subject, model: str | None) -> Sequence[str]:
    return (model,) if model is not None else tried.models or ("default",)


def _each(check: Callable[[Case], None], cases: Iterable[Case]) -> None:
    """Check every case; SkipTest where none could be checked."""
    __tracebackhide__ = True
    reasons: list[str] = []
    count = 0
    for case in cases:
        count += 1
        try:
            check(case)
        except SkipTest as reason:
            reasons.append(str(reason))
    if len(reasons) == count:
        raise SkipTest("; ".join(dict.fromkeys(reasons)) or "there are no scripts")


def _migrated(
    tried: Subject, old: Mapping[str, torch.Tensor], to: str, start: str | None
) -> dict[str, torch.Tensor]:
    import torch

    parents = () if to in ("head", "heads") else tried.history.parents(_script_id(tried, to))
    request = Request(to=to, from_revision=start or next(iter(parents), "base"), use_model=False)
    with tempfile.TemporaryDirectory(prefix="ckmigrate-") as folder:
        source, target = Path(folder) / "old.pt", Path(folder) / "new.pt"
        torch.save(dict(old), source)
        prepared = prepare(tried.project, tried.history, source, request)
        carry_out(prepared, Destination(target))
        return dict(torch.load(target, weights_only=True))


def _is_equal(found: torch.Tensor, wanted: torch.Tensor, rtol: float, atol: float) -> bool:
    import torch

    if (rtol or atol) and wanted.is_floating_point():
        return torch.allclose(found, wanted.detach(), rtol=rtol, atol=atol, equal_nan=True)
    return torch.equal(_bits(found), _bits(wanted))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8)


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> str:
    width = max(1, wanted.element_size())
    wrong = (_bits(found) != _bits(wanted)).reshape(-1, width).any(dim=1).nonzero().reshape(-1)
    first = int(wrong[0])
    values = [t.detach().reshape(-1)[first].item() for t in (found, wanted)]
    return (
        f"{len(wrong)} of {wanted.numel()} values differ; the first is {values[0]}, not {values[1]}"
    )
