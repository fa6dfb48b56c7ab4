"""The text of a draft that is edited."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckmigrate.autogenerate.decide import Choice, accept_all, accept_certain, accept_likely
from ckmigrate.autogenerate.edit import parse_edited, render_edit
from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.errors import UsageError
from tests.autogenerate.drafts import ALT, DRAFT, proposal

GOLDEN = Path(__file__).parent / "golden"
TEXT = render_edit(accept_likely(DRAFT))


def edited(old: str, new: str) -> tuple[Choice, ...]:
    assert old in TEXT
    choices = parse_edited(TEXT.replace(old, new), DRAFT)
    assert choices is not None
    return choices


def test_the_text_of_a_draft() -> None:
    assert (GOLDEN / "edit.txt").read_text() == TEXT


@pytest.mark.parametrize("accept", [accept_all, accept_certain, accept_likely])
def test_an_unchanged_text_gives_its_choices(accept: object) -> None:
    choices = accept(DRAFT)  # type: ignore[operator]
    assert parse_edited(render_edit(choices), DRAFT) == choices


def test_words_choose() -> None:
    assert edited("todo 3", "keep 3")[2].chosen == DRAFT.proposals[2]
    assert edited("todo 3", "keep 3.1")[2].chosen == ALT
    assert edited("todo 3", "KEEP 3.1")[2].chosen == ALT
    assert edited("keep 1 ", "todo 1 ")[0].chosen is None
    assert edited("keep 1 ", "drop 1 ")[0].chosen is None
    assert edited("keep 1 ", "# keep 1 ")[0].chosen is None


def test_the_line_of_an_alternative_is_enough() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("#    3.1"))
    todo = next(line for line in TEXT.splitlines() if line.startswith("todo 3"))
    text = TEXT.replace(line, line.replace("#    ", "")).replace(todo, "")
    choices = parse_edited(text, DRAFT)
    assert choices is not None
    assert choices[2].chosen == ALT


def test_a_call_may_be_rewritten() -> None:
    chosen = edited('"encoder.**")', '"backbone.**")  # as discussed')[0].chosen
    assert chosen is not None
    assert (chosen.kind, chosen.call) == ("rename", 'ck.rename("body.**", "backbone.**")')


def test_quotes_and_blanks_are_no_change() -> None:
    assert edited('ck.rename("body.**", "encoder.**")', "ck.rename('body.**','encoder.**')")[0] == (
        Choice(DRAFT.proposals[0], DRAFT.proposals[0])
    )


def test_no_line_at_all_writes_nothing() -> None:
    assert parse_edited("", DRAFT) is None
    assert parse_edited("# keep 1\n\n", DRAFT) is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("keep 1 ", "keep 9 ", "there is no proposal 9; they are 1 to 5"),
        ("keep 1 ", "keep 1.1 ", "no alternative has the number 1; there is none"),
        ("todo 3", "keep 3.2", "no alternative has the number 2; there are 1"),
        ("keep 1 ", "hold 1 ", "neither `keep N` nor `todo N`"),
        ("keep 2 ", "keep 1 ", "proposal 1 stands in it twice"),
        ("ck.drop(", "ck.drop((", "is not Python"),
        ('ck.drop("aux", reason="gone")', "import os", "is not a call such as ck.rename"),
        ('ck.drop("aux", reason="gone")', "os.remove('x')", "is not a call such as ck.rename"),
    ],
)
def test_what_cannot_be_read_names_the_line(old: str, new: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        edited(old, new)
    assert caught.value.code == "CKM254"
    number = next(n for n, line in enumerate(TEXT.replace(old, new).splitlines(), 1) if new in line)
    assert caught.value.where is not None
    assert caught.value.where.startswith("the draft, line")
    assert old == "keep 2 " or caught.value.where == f"the draft, line {number}"
    assert why in str(caught.value.why)


def test_keeping_what_has_no_call_is_refused() -> None:
    draft = Draft((proposal("todo", 'ck.todo("?")', "ambiguous"),))
    with pytest.raises(UsageError, match="cannot be read"):
        parse_edited('keep 1  ck.todo("?")', draft)
    choices = parse_edited('keep 1  ck.drop("a", reason="b")', draft)
    assert choices is not None
    assert choices[0].chosen is not None


@pytest.mark.parametrize(
    "call",
    [
        'for i in range(2):\n    ck.init(f"a.{i}", shape=(1,))',
        'for i in range(2):\n    for j in range(3):\n        ck.init(f"a.{i}.{j}", shape=(1,))',
        'ck.drop("a", reason="b")\nck.init("a", shape=(1,))',
    ],
)
def test_calls_of_several_lines_survive_the_text(call: str) -> None:
    draft = Draft((proposal("init", call, "guess"),))
    choices = accept_all(draft)
    assert parse_edited(render_edit(choices), draft) == choices


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        choices = parse_edited(text, DRAFT)
    except UsageError as error:
        assert error.code == "CKM254"  # noqa: PT017
    else:
        assert choices is None or len(choices) == len(DRAFT.proposals)
