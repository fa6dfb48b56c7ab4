"""The table and the counts after many checkpoints."""

from __future__ import annotations

import pytest

from ckmigrate.report.batch import Line, summary_data, summary_text
from tests.pages import ROOT, blocks

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
    assert summary_data(LINES, 2.0, "upgrade") == {
        "checkpoints": 5,
        "written": 2,
        "copied": 0,
        "done": 0,
        "current": 1,
        "failed": 1,
        "interrupted": 0,
        "not_tried": 1,
        "bytes": 12_000_000,
        "seconds": 2.0,
    }


def test_a_verb_that_only_reads_has_outcomes_of_its_own() -> None:
    lines = [Line("a.pt", "verified", 5_000_000, 1.0), LINES[3]]
    assert summary_text(lines, 1.2, "verify").splitlines()[1:4] == [
        "2 checkpoints, 5.0 MB, 1.2 s",
        "  verified  1  5.0 MB  1.0 s",
        "  failed    1          0.2 s",
    ]
    counts = summary_data(lines, 1.2, "verify")
    assert (counts["verified"], counts["failed"], "written" in counts) == (1, 1, False)


def test_copies_and_results_of_an_earlier_run_are_rows_of_their_own() -> None:
    lines = [Line("a.pt", "copied", 10, 0.1), Line("b.pt", "done", 0, 0.1)]
    rows = summary_text(lines, 0.2, "upgrade").splitlines()[2:]
    assert [row.split("  ")[1].strip() for row in rows] == ["copied", "already done"]


def test_the_table_on_the_page_is_what_is_printed() -> None:
    page, web = ROOT / "docs" / "batch.md", "last.ckpt is a web page or an XML answer"
    fits = "the checkpoint has no tag, and its tensors fit no revision of this history"
    lines = [
        Line("runs/a/last.ckpt", "written", 20_000_000_000, 81.0),
        Line("runs/d/last.ckpt", "written", 21_000_000_000, 90.0),
        Line("runs/e/last.ckpt", "current", 0, 0.2),
        Line(
            "runs/b/last.ckpt",
            "failed",
            0,
            0.1,
            _failure("CKM709", f"{web}, not the file behind it"),
        ),
        Line("runs/c/last.ckpt", "failed", 0, 0.0, _failure("CKM414", fits)),
    ]
    (shown,) = (block.text for block in blocks(page) if block.kind == "text")
    assert summary_text(lines, 92.0, "upgrade").strip() == shown.strip()


def _failure(code: str, what: str) -> dict[str, object]:
    return {"code": code, "what": what}
