"""What a user may write where a revision is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckmigrate.errors import CkmigrateError, HistoryError, IdentifyError
from ckmigrate.revisions.graph import History, build_history
from ckmigrate.revisions.script import Script
from ckmigrate.revisions.targets import resolve

FOLDER = Path("migrations")
FIRST, SECOND, THIRD = "aa11111111", "aa22222222", "bb33333333"


def script(revision: str, *parents: str, number: int | None, slug: str) -> Script:
    revises = None if not parents else parents[0] if len(parents) == 1 else parents
    file = f"{slug}.py" if number is None else f"{number:04d}_{slug}.py"
    return Script(FOLDER / file, revision, revises, number=number, slug=slug)


def line() -> History:
    scripts = (
        script(FIRST, number=1, slug="start"),
        script(SECOND, FIRST, number=2, slug="split_qkv"),
        script(THIRD, SECOND, number=12, slug="split_head"),
    )
    return build_history(scripts, folder=FOLDER)


def fork() -> History:
    scripts = (*line().order, script("cc44444444", SECOND, number=12, slug="other"))
    return build_history(scripts, folder=FOLDER)


def merged() -> History:
    merge = script("dd55555555", THIRD, "cc44444444", number=13, slug="merge")
    return build_history((*fork().order, merge), folder=FOLDER)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("head", THIRD),
        ("heads", THIRD),
        (" head ", THIRD),
        ("base", None),
        (SECOND, SECOND),
        (SECOND.upper(), SECOND),
        ("aa22", SECOND),
        ("AA22", SECOND),
        ("0002", SECOND),
        ("2", SECOND),
        ("12", THIRD),
        ("split_qkv", SECOND),
        ("split_q", SECOND),
        ("0002_split_qkv", SECOND),
        ("0002_split_qkv.py", SECOND),
        ("0002_sp", SECOND),
        ("+1", THIRD),
        ("-1", FIRST),
        ("-2", None),
        ("+0", SECOND),
        ("base+1", FIRST),
        ("head-1", SECOND),
        ("split_head-2", FIRST),
        ("0001+1", SECOND),
        ("aa11+2", THIRD),
        ("head-1+1", THIRD),
    ],
)
def test_every_way_to_write_a_revision(text: str, meant: str | None) -> None:
    assert resolve(line(), text, current=SECOND) == meant


def test_steps_start_at_the_base_when_nothing_is_current() -> None:
    assert resolve(line(), "+2") == SECOND


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("split", "CKM402", (SECOND, THIRD)),
        ("+2", "CKM403", ("1 step(s)",)),
        ("-3", "CKM403", ("2 step(s)",)),
        ("base-1", "CKM403", ("base",)),
        ("head+1", "CKM403", (THIRD,)),
        ("spilt_qkv", "CKM401", (SECOND, "split_qkv")),
        ("aa22222223", "CKM401", (SECOND,)),
        ("aa2", "CKM401", ("first 4 digits",)),
        ("nowhere+1", "CKM401", ("nowhere",)),
        ("", "CKM401", ("history",)),
        ("+", "CKM401", ("history",)),
        ("9" * 5000, "CKM401", ("history",)),
        ("+999999999", "CKM403", ("1 step(s)",)),
    ],
)
def test_what_fits_nothing_or_too_much_is_explained(
    text: str, code: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(IdentifyError) as caught:
        resolve(line(), text, current=SECOND)
    assert caught.value.code == code
    assert [word for word in named if word not in str(caught.value)] == []
    assert caught.value.fix


def test_a_number_on_two_branches_is_ambiguous() -> None:
    with pytest.raises(IdentifyError) as caught:
        resolve(fork(), "12")
    assert caught.value.code == "CKM402"
    assert len(caught.value.details) == 2


@pytest.mark.parametrize("text", ["head", "heads", "head-1"])
def test_head_of_a_fork_is_an_error_that_names_both(text: str) -> None:
    with pytest.raises(HistoryError) as caught:
        resolve(fork(), text)
    assert caught.value.code == "CKM316"


@pytest.mark.parametrize(("history", "text"), [(fork(), "aa22+1"), (merged(), "merge-1")])
def test_a_step_that_can_go_two_ways_is_ambiguous(history: History, text: str) -> None:
    with pytest.raises(IdentifyError) as caught:
        resolve(history, text)
    assert caught.value.code == "CKM402"
    assert THIRD in caught.value.details[0]


def test_an_exact_id_of_digits_wins_over_everything_else() -> None:
    scripts = (
        script("12345678", number=1, slug="start"),
        script("123456789a", "12345678", number=12345678, slug="next"),
    )
    history = build_history(scripts, folder=FOLDER)
    assert resolve(history, "12345678") == "12345678"
    with pytest.raises(IdentifyError) as caught:
        resolve(history, "1234567")
    assert caught.value.code == "CKM402"


def test_an_exact_slug_wins_over_a_beginning_and_over_steps() -> None:
    scripts = (
        script(FIRST, number=1, slug="fix"),
        script(SECOND, FIRST, number=2, slug="fix-1"),
    )
    history = build_history(scripts, folder=FOLDER)
    assert resolve(history, "fix") == FIRST
    assert resolve(history, "fix-1") == SECOND


def test_an_empty_history_has_a_head_that_is_the_base() -> None:
    empty = build_history((), folder=FOLDER)
    assert resolve(empty, "head") is None
    with pytest.raises(IdentifyError) as caught:
        resolve(empty, "x")
    assert "empty" in (caught.value.why or "")


@settings(deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"(head|aa|split|1)?[+-]?\d*", fullmatch=True))
def test_any_text_is_a_revision_or_an_error_of_ours(text: str) -> None:
    try:
        meant = resolve(line(), text, current=SECOND)
    except CkmigrateError:
        return
    assert meant in (None, FIRST, SECOND, THIRD)


@pytest.mark.parametrize(("typed", "meant"), [("hea", "head"), ("haed", "head"), ("bse", "base")])
def test_a_slip_in_head_or_base_is_told(typed: str, meant: str) -> None:
    with pytest.raises(IdentifyError) as caught:
        resolve(line(), typed)
    assert (caught.value.code, caught.value.details[0]) == ("CKM401", f"near: {meant}")
