"""Law: whatever the chain, the planned bytes are those of moving every element step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate import lower as lower_module
from ckmigrate.execute import evaluate as evaluate_module
from tests.laws.chains import (
    NARROW,
    WHOLE,
    Case,
    bytes_of,
    cases,
    checkpoint,
    evaluated,
    run,
    schema_of,
)
from tests.naive import pack


@contextmanager
def limits(*, mean_run: int, few: int, chunk: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_module, "MIN_MEAN_RUN", mean_run)
        patch.setattr(lower_module, "FEW_RUNS", few)
        patch.setattr(evaluate_module, "CHUNK_BYTES", chunk)
        yield


def compare(case: Case, *, plain: bool) -> int:
    """Compare all entries; the number of entries that were refused."""
    ck = run(checkpoint(case.entries, case.ties), case.acts)
    expected = case.naive()
    assert ck.schema == schema_of(expected.entries)
    assert list(ck.names) == list(expected.entries)
    for group in ck.ties:
        assert len({pack(expected.entries[name]) for name in group}) == 1
        assert len({expected.shape(name) for name in group}) == 1
    for same in expected.untouched():
        assert any(set(same) <= set(group) for group in ck.ties)
    data = case.naive(0).bytes_by_name()
    refused = 0
    for name, wanted in expected.bytes_by_name().items():
        found = bytes_of(ck.entries[name], data, case.schema, plain=plain)
        refused += found is None
        assert found in (None, wanted), name
        if expected.entries[name].dtype.bits >= 8:
            assert evaluated(ck.entries[name], data, case.schema) == wanted, name
    return refused


@given(
    cases(WHOLE),
    st.booleans(),
    st.sampled_from([1, 4, 64, 2048]),
    st.sampled_from([0, 2, 16]),
    st.sampled_from([1, 7, 64, 1 << 20]),
)
@settings(max_examples=1200, deadline=None)
def test_a_chain_gives_the_bytes_of_its_steps(
    case: Case, plain: bool, mean_run: int, few: int, chunk: int
) -> None:
    with limits(mean_run=mean_run, few=few, chunk=chunk):
        assert compare(case, plain=plain) == 0


@given(cases(NARROW))
@settings(max_examples=200, deadline=None)
def test_narrow_elements_come_out_right_or_are_refused(case: Case) -> None:
    compare(case, plain=True)


@pytest.mark.slow
@given(cases(WHOLE, longest=25), st.sampled_from([1, 4, 2048]), st.sampled_from([1, 64, 1 << 20]))
@settings(max_examples=2500, deadline=None)
def test_long_chains_give_the_bytes_of_their_steps(case: Case, mean_run: int, chunk: int) -> None:
    with limits(mean_run=mean_run, few=2, chunk=chunk):
        assert compare(case, plain=True) == 0
