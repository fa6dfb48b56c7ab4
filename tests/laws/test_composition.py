"""Law: two chains traced as one give the bytes of running the first, writing, and running on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.chains import WHOLE, Case, bytes_of, cases, checkpoint, run, schema_of
from tests.naive import Entry, items_of


def unpack(data: bytes, entry: Entry) -> Entry:
    width = entry.dtype.bits // 8
    values = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    return Entry(entry.dtype, items_of(values, tuple(entry.items.shape)))


@given(cases(WHOLE), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_composing_equals_running_in_sequence(case: Case, cut: int) -> None:
    data = case.naive(0).bytes_by_name()
    whole = run(checkpoint(case.entries, case.ties), case.acts)
    first = run(checkpoint(case.entries, case.ties), case.acts[:cut])
    forms = case.naive(cut).entries
    middle = {
        name: unpack(bytes_of(expr, data, case.schema) or b"", forms[name])
        for name, expr in first.entries.items()
    }
    second = run(checkpoint(middle, first.ties), case.acts[cut:])
    assert whole.schema == second.schema
    written = Case(middle, (), []).naive().bytes_by_name()
    for name, expr in whole.entries.items():
        assert bytes_of(expr, data, case.schema) == bytes_of(
            second.entries[name], written, schema_of(middle)
        )
