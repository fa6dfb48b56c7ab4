"""Law: the ranges of a copy cover the output exactly, inside their sources, and none is empty."""

from __future__ import annotations

from hypothesis import given, settings

from ckmigrate.errors import MigrationError
from ckmigrate.lower import Copy, SourceRange, lower
from tests.laws.chains import NARROW, WHOLE, Case, cases, checkpoint, run


@given(cases(WHOLE) | cases(NARROW))
@settings(max_examples=150, deadline=None)
def test_ranges_cover_the_output_exactly(case: Case) -> None:
    for expr in run(checkpoint(case.entries, case.ties), case.acts).entries.values():
        try:
            lowered = lower(expr, lambda name: True)
        except MigrationError:
            assert expr.spec.dtype.bits < 8
            continue
        if not isinstance(lowered, Copy):
            continue
        assert sum(item.nbytes for item in lowered.ranges) == expr.spec.nbytes
        last: SourceRange | None = None
        for item in lowered.ranges:
            assert item.nbytes > 0
            if not isinstance(item, SourceRange):
                last = None
                continue
            assert item.start >= 0
            assert item.start + item.nbytes <= case.schema[item.name].nbytes
            joined = last and last.name == item.name and last.start + last.nbytes == item.start
            assert not joined
            last = item
