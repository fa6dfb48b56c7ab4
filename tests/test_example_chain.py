"""The example's real chain on its real checkpoint: recognised everywhere, equal at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import Request, carry_out, identify_opened, open_weights, prepare
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history
from examples.digits.evaluate import CHECKPOINT, accuracy, load, logits

ROOT = Path(__file__).parents[1]
PROJECT = find_project(ROOT)
HISTORY = read_history(PROJECT.migrations)


@pytest.mark.parametrize("revision", [None, *(script.id for script in HISTORY.order)])
def test_an_untagged_file_of_any_revision_is_recognised(
    tmp_path: Path, revision: str | None
) -> None:
    path = tmp_path / "at.safetensors"
    request = Request(to=revision or "base", weights_only=True, use_model=False)
    carry_out(prepare(PROJECT, HISTORY, CHECKPOINT, request), Destination(path))
    save_file(load_file(path), path)
    opened = open_weights(path, PROJECT, Request())
    assert opened.stored.tag is None
    found = identify_opened(opened, PROJECT, HISTORY, Request())
    assert (found.revision, found.is_tagged) == (revision, False)


def test_todays_model_answers_as_release_1_0_did(tmp_path: Path) -> None:
    path = tmp_path / "today.pt"
    carry_out(prepare(PROJECT, HISTORY, CHECKPOINT, Request()), Destination(path))
    old, new = load(CHECKPOINT, "v1_0"), load(path)
    assert accuracy(new) == accuracy(old)
    assert (logits(old)[:, :10] - logits(new)).abs().max().item() < 1e-4
