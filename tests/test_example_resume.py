"""Training of the example goes on after sixteen migrations with the state that release 1.0 had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ckmigrate.execute.commit import Destination
from ckmigrate.migrate import Request, carry_out, prepare
from ckmigrate.project import find_project
from ckmigrate.revisions.graph import read_history
from examples.digits import optimizer
from examples.digits.evaluate import CHECKPOINT, build
from examples.digits.resume import BATCH, NEXT, next_losses

ROOT = Path(__file__).parents[1]
State = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of release 1.0 at today's architecture."""
    path = tmp_path_factory.mktemp("example") / "today.pt"
    project = find_project(ROOT)
    prepared = prepare(project, read_history(project.migrations), CHECKPOINT, Request())
    carry_out(prepared, Destination(path))
    return path


def restored(path: Path, architecture: str) -> State:
    """The optimizer's state by the names of the parameters, as torch restores it."""
    model = build(architecture)
    made = optimizer.build(model)
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    made.load_state_dict(saved["optimizer"])
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {names[parameter]: state for parameter, state in made.state.items()}


def test_release_1_0_has_moments_of_everything_that_it_trained() -> None:
    state = restored(CHECKPOINT, "v1_0")
    parameters = dict(build("v1_0").named_parameters())
    assert state.keys() == parameters.keys()
    for name, one in state.items():
        assert one["exp_avg"].shape == parameters[name].shape
        assert one["step"] == 40 * 23
        assert one["exp_avg_sq"].any(), name


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
def test_moments_stand_where_the_values_of_their_weights_stand(key: str, today: Path) -> None:
    old = {name: one[key] for name, one in restored(CHECKPOINT, "v1_0").items()}
    new = {name: one[key] for name, one in restored(today, "current").items()}
    for block in range(2):
        was, now = f"transformer.blocks.{block}", f"backbone.encoder.blocks.{block}"
        qkv = old[f"{was}.attn.qkv.weight"]
        q, k, v = torch.split(qkv, [32, 16, 16])
        q, k = (part.reshape(-1, 4, 2, 32).transpose(1, 2).flatten(0, 2) for part in (q, k))
        assert torch.equal(new[f"{now}.attn.in_proj_weight"], torch.cat((q, k, v)))
        experts = [old[f"{was}.moe.experts.{e}.fc1.weight"].T for e in range(12)]
        assert torch.equal(new[f"{now}.moe.experts.fc1.weight"], torch.stack(experts))
        assert torch.equal(new[f"{now}.attn.temperature"], old["transformer.temperature"][block])
        assert torch.equal(new[f"{now}.attn.proj.weight"], old[f"{was}.attn.proj.weight_orig"])
    head = old["final_conv.weight"][:10].flatten(1)
    assert torch.equal(new["backbone.head.weight"], head)
    stem = new["backbone.stem.conv2.weight"]
    assert torch.equal(stem[..., 1:4, 1:4], old["stem.conv2.weight"])
    assert not nn.functional.pad(stem[..., 1:4, 1:4], (1, 1, 1, 1)).ne(stem).any()
    neck = new["backbone.neck.fc1.weight"]
    assert torch.equal(neck[:24], old["neck.fc1.weight"])
    assert not neck[24:].any()


def test_new_layers_have_no_state_and_shared_ones_have_it_once(today: Path) -> None:
    state = restored(today, "current")
    missing = dict(build("current").named_parameters()).keys() - state.keys()
    assert {name.split(".")[1] for name in missing if name.startswith("front.")} == {
        "conv",
        "linear",
    }
    kinds = (".front.", ".adapter.", ".ls1.", ".ls2.", ".neck.fc2.", ".conv3.", ".calibration.")
    assert all(any(kind in f".{name}" for kind in kinds) for name in missing)
    assert "backbone.head.weight" in state
    assert "backbone.early_exit.weight" not in state


def test_the_next_losses_are_those_of_release_1_0(today: Path) -> None:
    old, new = next_losses(CHECKPOINT, "v1_0"), next_losses(today, "current")
    forgot = next_losses(today, "current", forget=True)
    assert len(old) == 8
    assert far(old, new) < 1e-5
    assert far(old, forgot) > 1e-3


def far(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_the_next_batches_are_digits() -> None:
    from safetensors.torch import load_file

    tensors = load_file(NEXT)
    assert tensors["images"].shape == (8 * BATCH, 8, 8)
    assert len(set(tensors["labels"].tolist())) == 10
    assert NEXT.stat().st_size < 50_000
