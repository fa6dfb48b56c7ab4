"""The table of a draft: golden texts, widths, hostile names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckmigrate.autogenerate.proposal import Draft
from ckmigrate.autogenerate.table import draft_table
from tests.autogenerate.drafts import DRAFT, proposal

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("width", [None, 80])
def test_the_table_of_a_draft(width: int | None) -> None:
    expected = (GOLDEN / f"table_{width or 'plain'}.txt").read_text()
    assert draft_table(DRAFT, width=width) + "\n" == expected


@pytest.mark.parametrize("width", range(20, 200, 7))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = draft_table(DRAFT, width=width).splitlines()
    headings = [line for line in lines if not line.startswith(" ")]
    narrowest = 24 + 9
    assert all(len(line) <= max(width, narrowest) for line in lines if line not in headings)
    assert "".join("".join(lines).split()) == "".join(draft_table(DRAFT).split())


def test_a_name_cannot_speak_to_the_terminal() -> None:
    odd = proposal("rename", "ck.rename('\x1b[31ma', 'b')", "guess", sources=("\x1b[2J", "a\nb"))
    shown = draft_table(Draft((odd,)), width=80)
    assert "\x1b" not in shown
    assert "\\x1b[2J" in shown


def test_sections_without_proposals_are_left_out() -> None:
    assert draft_table(Draft(DRAFT.proposals[:1])).startswith("certain\n")
    assert "ambiguous" not in draft_table(Draft(DRAFT.proposals[:2]))
