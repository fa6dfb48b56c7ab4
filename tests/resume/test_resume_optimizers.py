"""Every optimizer of torch that treats elements alone, frozen layers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.resume.networks import SCRIPT, Frozen, New, Old
from tests.resume.project import Project, project_of
from tests.resume.training import (
    ADAMW,
    AFTER,
    SAME,
    Group,
    Method,
    Run,
    by_dimensions,
    loss_gap,
    save,
    state,
    trained,
)

Make = Callable[[list[Group]], Optimizer]


def freeze(*names: str) -> Callable[[nn.Module], None]:
    def apply(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.startswith(names):
                parameter.requires_grad_(False)

    return apply


def all_in_one(model: nn.Module) -> list[Group]:
    """Frozen parameters are given to the optimizer too, which never makes state for them."""
    return [{"params": list(model.named_parameters())}]


EMBEDDING = replace(ADAMW, prepare=freeze("embed.", "tokens."))
FIRST = replace(ADAMW, prepare=freeze("layers.0.", "encoder.blocks.0."))


@pytest.mark.parametrize("named", [False, True], ids=["indices", "names"])
@pytest.mark.parametrize("model", [New, Frozen])
@pytest.mark.parametrize("inside", [False, True], ids=["left-out", "without-state"])
def test_a_frozen_layer_has_no_state_and_stays_so(
    inside: bool,
    model: Callable[[], nn.Module],
    named: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = project_of(tmp_path / "project", monkeypatch, model, SCRIPT, state(Old))
    groups = all_in_one if inside else by_dimensions
    method = replace(EMBEDDING, named=named, groups=groups)
    old = trained(method)
    path = save(old, project.folder / "old.pt")
    upgraded = project.upgrade(path)
    assert loss_gap(old.advance(AFTER), method, upgraded) < SAME


def test_a_frozen_layer_among_layers_of_its_shape_needs_names(project: Project) -> None:
    old = trained(FIRST)
    path = save(old, project.folder / "old.pt")
    refused = project.refused(path)
    assert "--param-order" in refused
    assert "--optimizer drop" in refused
    order = project.folder / "order.txt"
    groups = by_dimensions(old.model)
    order.write_text("".join(f"{n}\n" for group in groups for n, _ in group["params"]))
    upgraded = project.upgrade(path, "--param-order", order)
    assert loss_gap(old.advance(AFTER), FIRST, upgraded) < SAME


def test_names_of_the_optimizer_tell_which_layer_is_frozen(project: Project) -> None:
    method = replace(FIRST, named=True)
    old = trained(method)
    upgraded = project.upgrade(save(old, project.folder / "old.pt"))
    assert loss_gap(old.advance(AFTER), method, upgraded) < SAME


def test_state_of_sgd_without_momentum_is_renumbered(project: Project) -> None:
    method = Method("sgd", lambda groups: torch.optim.SGD(groups, lr=0.1))
    old = trained(method)
    upgraded = project.upgrade(save(old, project.folder / "old.pt"))
    assert loss_gap(old.advance(AFTER), method, upgraded) < SAME


OTHERS: dict[str, Make] = {
    "adadelta": lambda groups: torch.optim.Adadelta(groups),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.03, initial_accumulator_value=0.1),
    "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.01),
    "asgd": lambda groups: torch.optim.ASGD(groups, lr=0.1, t0=10.0),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
    "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
    "rprop": lambda groups: torch.optim.Rprop(groups, lr=0.001),
    "capturable": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), foreach=False),
}


@pytest.mark.parametrize(
    "named", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["indices", "names"]
)
@pytest.mark.parametrize("name", OTHERS)
def test_every_optimizer_that_treats_elements_alone(
    name: str, named: bool, project: Project
) -> None:
    method = Method(name, OTHERS[name], named=named)
    old = trained(method)
    upgraded = project.upgrade(save(old, project.folder / "old.pt"))
    assert loss_gap(old.advance(AFTER), method, upgraded) < SAME


@pytest.mark.parametrize("name", ["adafactor", "lbfgs"])
def test_an_optimizer_that_looks_at_whole_tensors_is_refused(name: str, project: Project) -> None:
    model = Old().double()
    if name == "lbfgs":
        optimizer: Optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    else:
        optimizer = torch.optim.Adafactor(model.parameters())
    run = Run.start(ADAMW, Old)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.zeros(2, 5, dtype=torch.long)).square().mean()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    optimizer.step(closure)  # type: ignore[arg-type]
    run.optimizer = optimizer
    refused = project.refused(save(run, project.folder / "old.pt"))
    assert "--optimizer drop" in refused
