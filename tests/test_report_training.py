"""What a plan and an outcome say about training state."""

from __future__ import annotations

from pathlib import Path

import torch

from ckmigrate.report.outcome import outcome_data, outcome_text
from ckmigrate.report.plan_json import plan_data
from ckmigrate.report.plan_text import plan_text
from ckmigrate.report.training import training_lines
from ckmigrate.training.carried import CarriedNode, Summary
from tests.projects import Zoo

SCRIPT = "ck.split('a', ['q', 'k'])\nck.init('n', shape=(3,))\nck.drop('z', reason='unused')"


def checkpoint() -> dict[str, object]:
    state = {"a": torch.randn(4, 3), "z": torch.randn(2), "c": torch.randn(5, 5)}
    average = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    return {"model": state, "swa\x1b": {**average, "n_averaged": torch.tensor(3)}, "best": state}


def test_a_plan_has_a_line_for_each_copy(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    prepared = zoo.prepare(zoo.save(checkpoint()))
    lines = plan_text(prepared).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  entries"))
    assert lines[at : at + 4] == [
        "  entries     4: 1 unchanged, 2 moved, 1 new, 1 dropped",
        "  ema         swa\\x1b: copy of weights: 3 as the weights, 1 new, 1 dropped",
        "  ema         best: copy of weights: 3 as the weights, 1 new, 1 dropped",
        "  bytes       332 bytes: 296 bytes copied, 36 bytes filled",
    ]
    assert plan_data(prepared)["training"] == [
        {
            "path": path,
            "kind": "copy",
            "summary": "copy of weights: 3 as the weights, 1 new, 1 dropped",
            "details": [],
            "counts": {"follow": 3, "fresh": 1, "dropped": 1},
        }
        for path in ("swa\x1b", "best")
    ]


def test_an_outcome_says_what_followed(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path, SCRIPT)
    outcome = zoo.run(zoo.save(checkpoint()), "new.pt")
    assert "4 entries, 2 copies of weights, " in outcome_text(outcome)
    training = outcome_data(outcome)["training"]
    assert isinstance(training, list)
    assert [node["path"] for node in training] == ["swa\x1b", "best"]


def test_many_nodes_and_long_lines_are_cut_unless_all_is_asked_for() -> None:
    summary = Summary("x" * 200, ("y" * 200,))
    nodes = [CarriedNode(("s", i), "optimizer", lambda made: made, summary) for i in range(20)]
    short = list(training_lines(nodes, 80))
    assert short[-1] == "              … 12 more"
    assert max(map(len, short)) <= 80
    assert len(list(training_lines(nodes, 80, full=True))) == 40


def test_a_line_is_broken_between_its_parts() -> None:
    parts = ("2 groups of 63 parameters", "63 with state that follows", "12 fresh", "3 dropped")
    node = CarriedNode(("optimizer",), "optimizer", lambda made: made, Summary("; ".join(parts)))
    assert list(training_lines([node], 76)) == [
        "  optimizer   optimizer: 2 groups of 63 parameters;",
        "              63 with state that follows; 12 fresh; 3 dropped",
    ]
    (whole,) = training_lines([node], 76, full=True)
    assert whole.endswith("; ".join(parts))
