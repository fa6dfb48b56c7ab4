"""The table and the counts after many checkpoints."""

from __future__ import annotations

import pytest

from ckmigrate.report.batch import Line, summary_data, summary_text

LINES = [
    Line("runs/a.pt", "written", 5_000_000, 1.5),
    Line("runs/b.pt", "written", 7_000_000, 61.0),
    Line("runs/c.pt", "current", 0, 0.04),
    Line("runs/\x1bd.pt", "failed", 0, 0.2, {"code": "CKM709", "what": "d.pt is a web page"}),
    Line("runs/e.pt", "not tried", 0, 0.0),
]


def test_every_outcome_that_there_was_is_a_row() -> None:
    assert summary_text(LINES, 3725.0, "upgrade").splitlines() == [
        "",
        "5 checkpoints, 12 MB, 1:02:05 h",
        "  upgraded         2  12 MB  1:02 min",
        "  already current  1            0.0 s",
        "  failed           1            0.2 s",
        "  not tried        1",
        "failed runs/\\x1bd.pt: d.pt is a web page [CKM709]",
    ]


@pytest.mark.parametrize(
    ("verb", "word"), [("downgrade", "downgraded"), ("stamp", "stamped"), ("other", "written")]
)
def test_each_verb_has_its_words(verb: str, word: str) -> None:
    assert f"  {word}  1" in summary_text(LINES[:1], 1.0, verb)


def test_counts_of_all_outcomes_are_in_the_data() -> None:
    assert summary_data(LINES, 2.0) == {
        "checkpoints": 5,
        "written": 2,
        "current": 1,
        "failed": 1,
        "interrupted": 0,
        "not_tried": 1,
        "bytes": 12_000_000,
        "seconds": 2.0,
    }
