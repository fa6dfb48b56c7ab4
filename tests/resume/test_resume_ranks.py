"""Training under FSDP2 goes on after an upgrade: two ranks with gloo, saved and loaded by DCP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.dcp_folders import ranks
from tests.resume.networks import SCRIPT, New, Old
from tests.resume.project import Project, project_of
from tests.resume.training import AFTER, BEFORE, difference

pytestmark = pytest.mark.slow

TRAIN = f"""
import json
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from tests.resume.networks import New, Old, batch
from tests.resume.training import by_dimensions, unnamed


def start(build, layers):
    torch.manual_seed(0)
    model = build().double()
    for layer in layers(model):
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(unnamed(by_dimensions(model)), lr=0.01)


def advance(model, optimizer, first, count):
    losses = []
    for step in range(first, first + count):
        tokens, labels = (part[rank::world] for part in batch(step))
        loss = cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / world)
    return losses


def note(name, losses):
    if rank == 0:
        open(f"{{name}}.json", "w").write(json.dumps(losses))


BEFORE, AFTER = {BEFORE}, {AFTER}
"""
OLD = (
    TRAIN
    + """
model, optimizer = start(Old, lambda model: model.layers)
advance(model, optimizer, 0, BEFORE)
weights, state = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optim": state, "step": BEFORE}, checkpoint_id="old")
options = StateDictOptions(flatten_optimizer_state_dict=True)
weights, state = get_state_dict(model, optimizer, options=options)
dcp.save({"model": weights, "optim": state, "step": BEFORE}, checkpoint_id="flat")
note("wanted", advance(model, optimizer, BEFORE, AFTER))
"""
)
RESUME = (
    TRAIN
    + """
for name, flat, fresh in (("new", False, False), ("new-flat", True, False), ("new", False, True)):
    model, optimizer = start(New, lambda model: model.encoder.blocks)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    wanted = {"model": weights, "step": 0} if fresh else {
        "model": weights, "optim": state, "step": 0
    }
    dcp.load(wanted, checkpoint_id=name)
    assert wanted["step"] == BEFORE
    set_state_dict(
        model,
        optimizer,
        model_state_dict=wanted["model"],
        optim_state_dict=state if fresh else wanted["optim"],
        options=options,
    )
    if fresh:
        optimizer.state.clear()
    note(name + "-fresh" * fresh, advance(model, optimizer, BEFORE, AFTER))
"""
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    base = Old().double().state_dict()
    return project_of(tmp_path / "project", monkeypatch, New, SCRIPT, base)


def losses(project: Project, name: str) -> list[float]:
    found: list[float] = json.loads((project.folder / f"{name}.json").read_text())
    assert len(found) == AFTER
    return found


def test_two_ranks_resume_where_two_ranks_stopped(project: Project) -> None:
    ranks(project.folder, 2, OLD)
    for name, out in {"old": "new", "flat": "new-flat"}.items():
        ran = project.process("upgrade", name, "-o", out)
        assert ran.code == 0, ran.err
    ranks(project.folder, 2, RESUME)
    wanted = losses(project, "wanted")
    assert difference(wanted, losses(project, "new")) < 1e-9
    assert difference(wanted, losses(project, "new-flat")) < 1e-9
    assert difference(wanted, losses(project, "new-fresh")) > 1e-4
