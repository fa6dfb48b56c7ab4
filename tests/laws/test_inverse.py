"""Law: where every record of a chain has an inverse, up and then down gives back the same bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.compile import inverse_steps
from ckmigrate.step import Irreversible
from tests.laws.chains import (
    NARROW,
    WHOLE,
    Case,
    bytes_of,
    cases,
    checkpoint,
    run,
    schema_of,
)


@given(cases(WHOLE, longest=8) | cases(NARROW, longest=8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_up_then_down_is_the_identity(case: Case, in_one_trace: bool) -> None:
    up = run(checkpoint(case.entries, case.ties), case.acts)
    steps = []
    for record in reversed(up.recorder.records):
        try:
            steps.append((record, inverse_steps(record)))
        except Irreversible:
            return
    above = case.naive()
    down = up if in_one_trace else checkpoint(above.entries, up.ties)
    data = (case.naive(0) if in_one_trace else above).bytes_by_name()
    schema = case.schema if in_one_trace else schema_of(above.entries)
    for record, back in steps:
        down.recorder.undo(record, back)
    assert down.schema == case.schema
    for name, wanted in case.naive(0).bytes_by_name().items():
        found = bytes_of(down.entries[name], data, schema)
        assert found == wanted or (found is None and case.entries[name].dtype.bits < 8)
    for check in down.recorder.checks:
        left, right = (bytes_of(side, data, schema) for side in (check.left, check.right))
        assert left == right or None in (left, right), check.claim
